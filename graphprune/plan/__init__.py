"""The plan: what was removed, by tensor name, axis and index, to read, edit, keep, merge and replay.

A plan speaks of the initializers of the original file, whatever the passes before the cut made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from graphprune.cut import Drop, gone
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.model.wellformed import LARGEST
from graphprune.pipeline import AFTER, BEFORE, Record, parse
from graphprune.plan.origins import traced, weights
from graphprune.rules import Dim

VERSION = 2

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]


class Removal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Positions removed from one axis of one weight.

    Attributes:
        tensor: name of the initializer.
        axis: counted from 0.
        size: length of the axis before.
        removed: old positions that go, ascending.
    """

    tensor: str
    axis: _Count
    size: _Size
    removed: list[_Count]

    @property
    def dim(self) -> Dim:
        """The axis it is about."""
        return Dim(self.tensor, self.axis)


class LayerRemoval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A residual branch that goes as a whole.

    Attributes:
        sum: name of the tensor that its output was added into, which becomes the other operand.
        branch: name of that output.
        kind: ``attention``, ``convolution`` or ``feed-forward``; for the reader.
    """

    sum: str
    branch: str
    kind: str = ""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a replay needs besides the original model.

    Attributes:
        version: of this format.
        model: name of the model the plan was made for.
        input_shapes: sizes that inputs with symbolic dimensions had; what is measured for a refit depends on them.
        before: passes to run before the removals.
        removals: what to remove, weight by weight.
        after: passes to run after the removals.
        inexact: whether groups that can be cut but not proved may be among the removals.
        layers: what to remove as a whole, when ``remove_layers`` is run.
    """

    version: int
    model: str
    input_shapes: dict[str, tuple[_Count, ...]]
    before: list[str]
    removals: list[Removal]
    after: list[str]
    inexact: bool = False
    layers: list[LayerRemoval] = []


def from_records(model: Model, records: Iterable[Record], inexact: bool = False) -> Plan:
    """The plan of a finished run: its removals, and the passes around them that changed the model or prepare that."""
    before: list[str] = []
    after: list[str] = []
    removals: list[Removal] = []
    layers: list[LayerRemoval] = []
    for record in records:
        if record.layers_gone:
            if layers:
                raise UsageError("a pipeline that removes layers twice has no single plan", "run it as two pipelines")
            layers = [LayerRemoval(b.sum, b.output, b.kind) for b in record.layers_gone]
        if record.cut:
            if removals:
                raise UsageError("a pipeline with two cuts has no single plan", "run it as two pipelines")
            state = record.before
            removals = removals_of(model, state.drop, traced(model, state.model, state.prunable))
        elif record.agreement is not None or record.prepares:
            (after if removals else before).append(record.replay)
    return Plan(VERSION, model.name, model.chosen_shapes, before, removals, after, inexact, layers)


def layers_of(plan: Plan, original: Model) -> tuple[str, ...]:
    """The sums of the layers that a plan removes.

    Raises:
        UsageError: the original does not add such a branch into such a sum.
    """
    made = {t.name: node for node in original.graph.nodes for t in node.outputs}
    for layer in plan.layers:
        node = made.get(layer.sum)
        if node is None or layer.branch not in [t.name for t in node.inputs]:
            raise UsageError(
                f"the plan removes the layer '{layer.branch}' from the sum '{layer.sum}', which this model lacks",
                "was it made for this model?",
            )
    return tuple(layer.sum for layer in plan.layers)


def plain(plan: Plan) -> Plan:
    """The same removals with no weight refitted: what ``graphprune.torch.apply`` makes of a module, as a file."""
    return msgspec.structs.replace(plan, before=BEFORE.split(", "), after=AFTER.split(", "))


def mixes(plan: Plan) -> list[str]:
    """The passes before the cut after which a position is no longer the original's."""
    return [step.text for step in parse(", ".join(plan.before)) if getattr(step.run, "mixes", False)]


def removals_of(original: Model, drop: Drop, groups: Sequence[Group]) -> list[Removal]:
    """What a choice of units takes from the weights of the original.

    Args:
        original: the model as loaded.
        drop: what goes, by group.
        groups: as ``traced``.
    """
    going = gone(groups, drop)
    return [
        Removal(dim.tensor, dim.axis, len(going[dim]), np.flatnonzero(going[dim]).tolist())
        for dim in _listed(original, groups)
        if dim in going
    ]


def _listed(original: Model, groups: Iterable[Group]) -> list[Dim]:
    """The axes a plan speaks of: those of the original's weights; of others where a group has none of these."""
    order = {name: k for k, name in enumerate(weights(original))}
    dims: set[Dim] = set()
    for group in groups:
        own = [dim for dim in group.labels if dim.tensor in order]
        dims.update(own or group.weights)
    return sorted(dims, key=lambda dim: (order.get(dim.tensor, len(order)), dim))


def as_drop(plan: Plan, original: Model, groups: Iterable[Group]) -> Drop:
    """The units a plan removes.

    Args:
        plan: for ``original``.
        original: the model as loaded.
        groups: of the model that is to be cut, as ``traced``.

    Raises:
        UsageError: the plan names what the model does not have, or removes a part of a unit only.
    """
    groups = list(groups)
    lengths = {dim: len(labels) for group in groups for dim, labels in group.labels.items()}
    check(plan, lengths)
    wanted = {removal.dim: removal for removal in plan.removals}
    drop: dict[str, np.ndarray] = {}
    for group in groups:
        going = np.zeros(group.size, bool)
        for dim, labels in group.labels.items():
            if dim in wanted:
                units = labels[np.asarray(wanted[dim].removed, np.int64)]
                going[units[units >= 0]] = True
        if (left := int((~going).sum())) < group.least:
            raise UsageError(
                f"the plan removes all of {group.name}" if not left else f"the plan leaves only {left} of {group.name}",
                "leave at least one of its positions" if group.least == 1 else f"{group.least} are chosen at a time",
            )
        if going.any():
            drop[group.name] = np.flatnonzero(going)
    complete = {removal.dim: removal for removal in removals_of(original, drop, groups)}
    for dim in {**wanted, **complete}:
        planned, needed = (set(found[dim].removed) if dim in found else set() for found in (wanted, complete))
        if extra := sorted(planned - needed):
            raise UsageError(
                f"the plan removes position {extra[0]} of {dim}, which is pinned",
                "`graphprune inspect` says why; take it out of the plan",
            )
        if missing := sorted(needed - planned):
            raise UsageError(
                f"the plan removes only part of a coupled unit: {dim} must lose {missing[:5]} too",
                "remove the same channels everywhere they are coupled; `graphprune inspect` lists the groups",
            )
    return drop


def check(plan: Plan, lengths: Mapping[Dim, int]) -> None:
    """Whether a plan's rows make sense by themselves, and for axes of these lengths.

    Raises:
        UsageError: with the tensor, axis and position that do not.
    """
    seen: set[Dim] = set()
    for removal in plan.removals:
        dim = removal.dim
        if dim in seen:
            raise UsageError(f"the plan lists {dim} twice", "keep one of the rows")
        seen.add(dim)
        if dim not in lengths:
            raise UsageError(f"the plan cuts {dim}, which this model lacks or pins", "was it made for this model?")
        if lengths[dim] != removal.size:
            raise UsageError(
                f"the plan has {removal.size} positions on {dim}, the model {lengths[dim]}",
                "was it made for this model?",
            )
        if beyond := [k for k in removal.removed if k >= removal.size]:
            raise UsageError(
                f"the plan removes position {beyond[0]} of {dim}, whose positions are 0 to {removal.size - 1}",
                "correct the row",
            )


def read(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        UsageError: the file is missing or is no plan.
    """
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).version
        plan = msgspec.json.decode(data, type=Plan) if version == VERSION else None
    except OSError as error:
        raise UsageError(f"cannot read plan {path}: {error.strerror}", "") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not a plan: {error}", "plans are written by `prune` and `compile`; `plan schema` describes them"
        ) from error
    if plan is None:
        raise UsageError(
            f"{path} is a plan of version {version}; this graphprune reads {VERSION}", "make it anew with `prune`"
        )
    return plan


class _Version(msgspec.Struct):
    version: int


def to_json(plan: Plan) -> bytes:
    """The plan as indented JSON, one removal a line, so that it can be edited by hand."""
    rows = ",\n".join("    " + msgspec.json.encode(r).decode() for r in plan.removals)
    text = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(plan, removals=[])), indent=2).decode()
    return (text.replace('"removals": []', f'"removals": [\n{rows}\n  ]' if rows else '"removals": []') + "\n").encode()


def schema() -> dict[str, Any]:
    """The JSON schema of a plan file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Plan)}
