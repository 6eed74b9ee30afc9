"""What a run found, did and proved, as ``report.json`` holds it."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from graphprune.branches import branches
from graphprune.budget import Tradeoff
from graphprune.calls import boundary, node_name, operator
from graphprune.cost import Cost, CostModel, Product
from graphprune.fidelity import Fidelity
from graphprune.groups import Group, Pinned
from graphprune.latency import Timing
from graphprune.model import Model
from graphprune.pipeline import Record
from graphprune.report.kernels import KernelReport as KernelReport
from graphprune.report.kernels import TargetReport as TargetReport
from graphprune.state import State

PACKAGES = (
    "graphprune",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnx-graphsurgeon",
    "networkx",
    "numpy",
    "apache-tvm",
)


class StepReport(msgspec.Struct, frozen=True):
    """One pass: wall seconds, nodes after it, and the proof if it changed the model.

    ``law`` marks a removal, whose error is against the model with what went silenced, at the outputs and
    (``layers_error``) at every inner tensor; no ``tolerance`` marks what is only measured: a pass that changes outputs
    on purpose, a cut that is inexact. ``given`` names tensors that say which of nearly equal numbers were chosen, where
    the proof needed both models to choose alike.
    """

    step: str
    seconds: float
    nodes: int
    error: float | None = None
    tolerance: float | None = None
    law: bool = False
    layers_error: float | None = None
    layers_tolerance: float | None = None
    given: list[str] = []


class OperatorReport(msgspec.Struct, frozen=True):
    """One node of the network as it was cut.

    Attributes:
        node: its name.
        operator: its type.
        before: multiply-accumulates and output channels before the cut; ``None`` for a node that only computes along.
        after: the same after it.
    """

    node: str
    operator: str
    before: Product | None = None
    after: Product | None = None


class Role(StrEnum):
    """What an operator does with the units of a group."""

    MAKES = "makes"
    CARRIES = "carries"
    READS = "reads"


class Member(msgspec.Struct, frozen=True):
    """An operator coupled into a group.

    Attributes:
        operator: its position among the operators of the report.
        roles: what it does with the units; one that maps a group to itself makes and reads it.
        after: positions of the operators that hand it the units.
    """

    operator: int
    roles: list[Role]
    after: list[int]


class GroupReport(msgspec.Struct, frozen=True):
    """One group of interchangeable units.

    Attributes:
        name: the first weight axis it touches.
        units: how many there were.
        kept: how many are left.
        axes: every axis they touch.
        members: every operator they pass, in graph order.
        inexact: whether cutting it is measured, not proved.
        curve: legal widths and the error predicted at each, the narrowest first; empty where not asked for.
        experts: whether they are experts, which only ``--remove-experts`` removes.
    """

    name: str
    units: int
    kept: int
    axes: list[str]
    members: list[Member] = []
    inexact: bool = False
    curve: list[tuple[int, float]] = []
    experts: bool = False


class LayerReport(msgspec.Struct, frozen=True):
    """One residual branch of a model that lost some: the tensor it is added into, its own, and what it is.

    ``score`` is how far the outputs had turned once it was gone, where that was measured.
    """

    sum: str
    branch: str
    kind: str
    removed: bool
    score: float | None = None


class PinReport(msgspec.Struct, frozen=True):
    """An axis left alone: the node that holds it, what it says, and the coupled axis the reason is about."""

    tensor: str
    axis: int
    size: int
    node: str
    operator: str
    reason: str
    via: str = ""


class Ratios(msgspec.Struct, frozen=True):
    """Shares kept, 1 for all."""

    channels: float
    parameters: float
    macs: float


class Report(msgspec.Struct, frozen=True):
    """The whole of ``report.json``.

    ``fidelity`` is how wrong the result is, ``None`` where nothing was made; ``sparsity`` the share of its
    multiply-accumulates, over the layers that were given zeros, that meet one.
    """

    model: str
    command: str
    input_shapes: dict[str, tuple[int, ...]]
    before: Cost
    after: Cost
    kept: Ratios
    steps: list[StepReport]
    groups: list[GroupReport]
    pinned: list[PinReport]
    versions: dict[str, str]
    operators: list[OperatorReport] = []
    tradeoff: Tradeoff | None = None
    targets: list[TargetReport] = []
    latency: dict[str, Timing] = {}
    seconds: dict[str, float] = {}
    notes: list[str] = []
    fidelity: Fidelity | None = None
    sparsity: float = 0.0
    layers: list[LayerReport] = []

    @property
    def law_error(self) -> float | None:
        """The largest error of a cut against zeroing; ``None`` where nothing was cut."""
        return max((s.error for s in self.steps if s.law and s.error is not None), default=None)

    @property
    def rewrite_error(self) -> float:
        """The largest change to an output by a pass that must make none."""
        return max((s.error for s in self.steps if not s.law and s.error and s.tolerance), default=0.0)


def build(
    model: Model,
    analysed: State,
    result: Model,
    records: Sequence[Record],
    command: str,
    seconds: Mapping[str, float],
    fidelity: Fidelity | None = None,
    left: Mapping[str, Any] | None = None,
) -> Report:
    """Gather a report.

    Args:
        model: the original.
        analysed: the state the cut started from, or would have.
        result: the pruned model.
        records: of the run.
        command: what produced it, to be shown.
        seconds: wall time by stage.
        fidelity: how wrong the result is.
        left: what passes left in ``data``: their ``notes``, the ``sparsity`` they reached.
    """
    removed = {name: len(units) for r in records if r.cut for name, units in r.before.drop.items()}
    dependencies, neighbours = analysed.dependencies, _neighbours(analysed.model)
    units = sum(g.size for g in dependencies.groups)
    # Shape arithmetic hides the MACs of the original; the same network with that folded is what something was first
    # removed from.
    macs = CostModel(next((r.before.model for r in records if r.law), analysed.model)).at().macs
    before = msgspec.structs.replace(CostModel(model).at(), macs=macs, channels=units)
    after = msgspec.structs.replace(CostModel(result).at(), channels=units - sum(removed.values()))
    left_out = [
        PinReport(d.tensor, d.axis, len(g.labels[d]), "", "", f"group {g.name} is left out by --include or --exclude")
        for g in dependencies.groups
        if not analysed.selects(g)
        for d in g.labels
    ]
    return Report(
        model=model.name,
        command=command,
        input_shapes={name: tuple(shape) for name, shape in model.input_shapes.items()},
        before=before,
        after=after,
        kept=Ratios(
            _share(after.channels, before.channels),
            _share(after.parameters, before.parameters),
            _share(after.macs, before.macs),
        ),
        steps=[_step(r) for r in records],
        operators=_operators(analysed, removed),
        groups=[
            GroupReport(
                g.name,
                g.size,
                g.size - removed.get(g.name, 0),
                [str(d) for d in g.labels],
                _members(g, analysed.model, neighbours),
                g.inexact,
                experts=g.routed,
            )
            for g in dependencies.groups
        ],
        pinned=[*left_out, *map(_pin, dependencies.pinned)],
        versions=versions(),
        fidelity=fidelity,
        tradeoff=analysed.data.get("tradeoff"),
        notes=list((left or {}).get("notes", ())),
        sparsity=round((left or {}).get("sparsity", 0.0), 6),
        layers=_layers(records, (left or {}).get("layers", {})),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
    )


def _layers(records: Sequence[Record], scores: Mapping[str, float]) -> list[LayerReport]:
    """All residual branches of the model that the first were removed from; none where none were."""
    for record in records:
        if record.layers_gone:
            going = {branch.sum for branch in record.layers_gone}
            return [
                LayerReport(b.sum, b.output, b.kind, b.sum in going, scores.get(b.sum))
                for b in branches(record.before.model)
            ]
    return []


def _share(after: int, before: int) -> float:
    return round(after / before, 6) if before else 1.0


def _step(record: Record) -> StepReport:
    proof = record.agreement
    return StepReport(
        record.text,
        round(record.seconds, 4),
        record.nodes,
        proof.error if proof else None,
        proof.rtol if proof and math.isfinite(proof.rtol) else None,
        record.law,
        record.layers.error if record.layers else None,
        record.layers.rtol if record.layers and math.isfinite(record.layers.rtol) else None,
        proof.given if proof else [],
    )


def _operators(analysed: State, removed: Mapping[str, int]) -> list[OperatorReport]:
    costs = CostModel(analysed.model, analysed.dependencies.groups)
    before, after = costs.products(), costs.products(removed)
    return [
        OperatorReport(node_name(node), operator(node), before.get(k), after.get(k))
        for k, node in enumerate(analysed.model.graph.nodes)
    ]


def _neighbours(model: Model) -> dict[str, list[int]]:
    """Positions of the nodes of the main graph that make or read each tensor, themselves or in their bodies."""
    found: dict[str, list[int]] = {}
    k = 0
    for node in model.nodes:
        for tensor in boundary(model, node):
            found.setdefault(tensor.name, []).append(k)
        k += k < len(model.graph.nodes) and node is model.graph.nodes[k]
    return found


def _members(group: Group, model: Model, neighbours: Mapping[str, Sequence[int]]) -> list[Member]:
    """The operators that a group's units pass, and how they pass them on."""
    touched = {dim.tensor for dim in group.labels}
    whole = Counter(dim.tensor for dim in group.labels if dim.tensor in model.constants)
    makers: dict[str, int] = {}  # tensor → the member that hands it on
    found = []
    for k in sorted({k for name in touched for k in neighbours[name]}):
        node = model.graph.nodes[k]
        read = [t.name for t in node.inputs if t.name in touched and t.name not in model.constants]
        made = [t.name for t in node.outputs if t.name in touched]
        makers |= dict.fromkeys(made, k)
        if not read and not made:
            continue
        itself = any(whole[t.name] > 1 for t in node.inputs)  # a weight with the units on both of its axes
        if read and made and not itself:
            roles = [Role.CARRIES]
        else:
            roles = [role for role, there in ((Role.READS, read), (Role.MAKES, made)) if there]
        found.append(Member(k, roles, sorted({makers[name] for name in read if name in makers})))
    return found


def _pin(pinned: Pinned) -> PinReport:
    via = str(pinned.via) if pinned.via != pinned.dim else ""
    return PinReport(pinned.dim.tensor, pinned.dim.axis, pinned.size, pinned.node, pinned.op, pinned.why, via)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def to_json(report: msgspec.Struct) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def size_text(count: int) -> str:
    """A number of bytes as people read it: ``1.09 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
