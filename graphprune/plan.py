"""The plan: what was removed, by tensor name, axis and index, to read, edit, keep and replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from graphprune.cut import Drop, gone
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.pipeline import Record
from graphprune.rules import Dim
from graphprune.shapes import symbolic_axes

VERSION = 1


class Removal(msgspec.Struct, frozen=True):
    """Positions removed from one axis of one weight.

    Attributes:
        tensor: name of the initializer.
        axis: counted from 0.
        size: length of the axis before.
        removed: old positions that go, ascending.
    """

    tensor: str
    axis: int
    size: int
    removed: list[int]


class Plan(msgspec.Struct, frozen=True):
    """Everything a replay needs besides the original model.

    Attributes:
        version: of this format.
        model: name of the model the plan was made for.
        input_shapes: sizes that inputs with symbolic dimensions had; what is measured for a refit depends on them.
        before: passes to run before the removals.
        removals: what to remove, weight by weight.
        after: passes to run after the removals.
    """

    version: int
    model: str
    input_shapes: dict[str, tuple[int, ...]]
    before: list[str]
    removals: list[Removal]
    after: list[str]


def from_records(model: Model, records: Iterable[Record]) -> Plan:
    """The plan of a finished run: its removals, and the passes around them that changed the model or prepare that."""
    before: list[str] = []
    after: list[str] = []
    removals: list[Removal] = []
    for record in records:
        if record.cut:
            if removals:
                raise UsageError("a pipeline with two cuts has no single plan", "run it as two pipelines")
            removals = _removals(record.before.model, record.cut)
        elif record.agreement is not None or record.prepares:
            (after if removals else before).append(record.text)
    sizes = {name: model.input_shapes[name] for name, info in model.inputs.items() if symbolic_axes(info)}
    return Plan(VERSION, model.name, sizes, before, removals, after)


def _removals(model: Model, cut: Mapping[Dim, np.ndarray]) -> list[Removal]:
    order = {name: k for k, name in enumerate(model.constants)}
    dims = sorted((d for d in cut if d.tensor in order), key=lambda d: (order[d.tensor], d.axis))
    return [Removal(d.tensor, d.axis, len(cut[d]), np.flatnonzero(cut[d]).tolist()) for d in dims]


def as_drop(plan: Plan, groups: Iterable[Group]) -> Drop:
    """The units a plan removes.

    Raises:
        UsageError: the plan names what the model does not have, or removes a part of a unit only.
    """
    groups = list(groups)
    wanted = {Dim(r.tensor, r.axis): r for r in plan.removals}
    lengths = {dim: len(labels) for group in groups for dim, labels in group.labels.items()}
    for dim, removal in wanted.items():
        if dim not in lengths:
            raise UsageError(f"the plan cuts {dim}, which this model lacks or pins", "was it made for this model?")
        if lengths[dim] != removal.size or not all(0 <= k < removal.size for k in removal.removed):
            raise UsageError(f"the plan has {removal.size} positions on {dim}, the model {lengths[dim]}", "")
    drop = {}
    for group in groups:
        going = np.zeros(group.size, bool)
        for dim in group.labels:
            if dim in wanted:
                labels = group.labels[dim][np.asarray(wanted[dim].removed, np.int64)]
                going[labels[labels >= 0]] = True
        if going.any():
            drop[group.name] = np.flatnonzero(going)
    for dim, mask in gone(groups, drop).items():
        planned = sorted(wanted[dim].removed) if dim in wanted else []
        if (dim in wanted or _is_weight(dim, groups)) and planned != np.flatnonzero(mask).tolist():
            missing = sorted(set(np.flatnonzero(mask).tolist()) - set(planned))
            raise UsageError(
                f"the plan removes only part of a coupled unit: {dim} must lose {missing[:5]} too",
                "remove the same channels everywhere they are coupled; `graphprune inspect` lists the groups",
            )
    return drop


def _is_weight(dim: Dim, groups: Iterable[Group]) -> bool:
    return any(dim in group.weights for group in groups)


def read(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        UsageError: the file is missing or is no plan.
    """
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise UsageError(f"cannot read plan {path}: {error.strerror}", "") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a plan: {error}", "plans are written by `prune` and `compile`") from error
    if plan.version != VERSION:
        raise UsageError(f"{path} is a plan of version {plan.version}; this graphprune reads {VERSION}", "")
    return plan


def to_json(plan: Plan) -> bytes:
    """The plan as indented JSON, one removal a line, so that it can be edited by hand."""
    rows = ",\n".join("    " + msgspec.json.encode(r).decode() for r in plan.removals)
    text = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(plan, removals=[])), indent=2).decode()
    return (text.replace('"removals": []', f'"removals": [\n{rows}\n  ]' if rows else '"removals": []') + "\n").encode()
