"""One graph of the roster: make it, prune half of every group, and note what came of it."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx_graphsurgeon as gs

from graphprune.cost import CostModel
from graphprune.errors import NothingToPruneError, VerificationError
from graphprune.model import Model, load
from graphprune.pipeline import AFTER, BEFORE, Step, parse, run
from graphprune.rules import Dim
from graphprune.state import State
from models.roster import Entry
from models.zoo import MissingError

CHOICE = "magnitude(power=2), uniform(ratio=0.5)"
# Why an axis stays that is no fault of the analysis: the caller sees it.
INTERFACE = ("graph output", "graph input")
# And one that this preset leaves alone: experts go when they are asked for.
ON_REQUEST = "something is shared out along it, as among experts (--remove-experts)"


class Row(msgspec.Struct, frozen=True):
    """What came of one entry.

    Attributes:
        name, family, made: of the entry.
        outcome: `pruned`, `nothing to prune`, `law broken`, `crashed`, or `not made` where there is no graph.
        detail: the message, where it is not `pruned`; else what its proof was given.
        parameters: elements of floating-point constants before.
        nodes: of the graph as loaded.
        parameters_removed: share.
        macs_removed: share.
        units: on all axes along which a weight makes channels that the caller does not see (see `made_axes`).
        prunable: how many of those are in a group.
        held: of the others, how many stay for which reason.
        error: the largest of the law, cut against zeroed, relative to the largest value of an output.
        tolerance: what was allowed: 1e-5 in float32, or what one rounding of the inputs does where that is more.
        analysis_seconds: processor time of shape folding and dependency analysis.
        seconds: wall time of all but making the graph.
        state: the commit of the code that measured it, `+` after it where files were changed since.
    """

    name: str
    family: str
    made: str
    outcome: str
    detail: str = ""
    parameters: int = 0
    nodes: int = 0
    parameters_removed: float = 0.0
    macs_removed: float = 0.0
    units: int = 0
    prunable: int = 0
    held: dict[str, int] = {}
    error: float | None = None
    tolerance: float | None = None
    analysis_seconds: float = 0.0
    seconds: float = 0.0
    state: str = ""


def measure(entry: Entry, folder: Path, *, keep: bool = False) -> Row:
    """Make, prune and prove the graph of `entry`.

    Args:
        entry: which.
        folder: where the graph is made, and found by the next run if it stays.
        keep: whether it stays even where all went well.
    """
    row = Row(entry.name, entry.family, entry.made, "crashed")
    try:
        path = make(entry, folder)
    except MissingError:
        raise
    except Exception as error:
        return msgspec.structs.replace(row, outcome="not made", detail=told(error))
    try:
        row = _pruned(load(path, dim_params=entry.sizes), row)
    except VerificationError as error:
        row = msgspec.structs.replace(row, outcome="law broken", detail=told(error))
    except Exception as error:
        row = msgspec.structs.replace(row, detail=told(error))
    if row.outcome in ("pruned", "nothing to prune") and not keep:
        delete(path)
    return row


def make(entry: Entry, folder: Path) -> Path:
    """The file of a graph, which is made unless it lies there; raises ``MissingError`` for want of a package."""
    path = folder / f"{entry.name.replace('/', '--')}.onnx"
    if path.exists():
        return path
    beside = path.with_name(f"new-{path.name}")
    try:
        entry.build(beside)
        beside.rename(path)
    except ModuleNotFoundError as error:
        raise MissingError(f"Python package '{error.name}' is missing: pip install 'graphprune[models]'") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def delete(path: Path) -> None:
    """Remove a graph, with weights beside it if there are any."""
    for file in (path, path.with_name(path.name + ".data")):
        file.unlink(missing_ok=True)


def told(error: Exception) -> str:
    """What happened and where, on one line."""
    where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({Path(where.filename).name}:{where.lineno})"


def _pruned(model: Model, row: Row) -> Row:
    preparing = parse(BEFORE)
    began, processor = time.perf_counter(), time.process_time()
    prepared = State(model)
    for step in preparing:
        prepared = step.run(prepared)
    found = coverage(prepared)
    processor = time.process_time() - processor
    before = CostModel(prepared.model).at()
    row = msgspec.structs.replace(
        row, parameters=before.parameters, nodes=len(model.graph.nodes), analysis_seconds=processor, **found
    )
    # What is prepared is not prepared again, but proved like any other step.
    steps = [Step(BEFORE, lambda state: prepared), *parse(f"{CHOICE}, cut, {AFTER}")]
    try:
        state, records = run(State(model), steps)
    except NothingToPruneError:  # where nothing is left to choose from; where no width fits, nothing is cut
        state, records = prepared, []
    law = next((record.agreement for record in records if record.cut), None)
    after = CostModel(state.model).at()
    given = max((len(record.agreement.given) for record in records if record.agreement), default=0)
    return msgspec.structs.replace(
        row,
        outcome="pruned" if law else "nothing to prune",
        detail=f"nearly equal numbers in the order of the reference at {given} choices" if given else "",
        parameters_removed=1 - after.parameters / max(before.parameters, 1),
        macs_removed=1 - after.macs / max(before.macs, 1),
        error=law and law.error,
        tolerance=law and law.rtol,
        seconds=time.perf_counter() - began,
    )


# ----------------------------------------------------------------------------------------------------------- coverage


def coverage(state: State) -> dict[str, object]:
    """How many units there are, how many can be pruned, and why the others stay: fields of a `Row`.

    A unit is a position of an axis along which a constant weight makes channels: an output channel of a convolution, a
    column of a matrix product, a cell of an LSTM. Weights that two nodes share count once. Axes that stay because the
    caller sees them are left out: those tied to an input or output of the graph, and those whose channels come out of
    it with no other weight in between (class scores behind a Softmax).
    """
    free: Counter[Dim] = Counter()
    for group in state.groups:
        for dim, labels in group.labels.items():
            free[dim] += int((np.asarray(labels) >= 0).sum())
    routed = {dim for group in state.experts for dim in group.labels}
    pins = {pin.dim: pin for pin in state.dependencies.pinned}
    units = prunable = 0
    held: Counter[str] = Counter()
    for dim, last in made_axes(state.model).items():
        size = state.model.shapes[dim.tensor][dim.axis] or 0
        pin = pins.get(dim)
        if not free[dim] and (last or (pin and pin.why in INTERFACE)):
            continue
        units, prunable = units + size, prunable + free[dim]
        if left := size - free[dim]:
            why = f"{pin.op}: {pin.why}" if pin and pin.op else pin.why if pin else "unknown"
            held[ON_REQUEST if dim in routed else why] += left
    return {"units": units, "prunable": prunable, "held": dict(held.most_common())}


def made_axes(model: Model) -> dict[Dim, bool]:
    """The weight axes along which nodes make channels of their own, and whether those go straight to an output."""
    found: dict[Dim, bool] = {}
    straight = {tensor.name for tensor in model.graph.outputs}
    for node in reversed(model.nodes):
        last = any(tensor.name in straight for tensor in node.outputs)
        made = list(_made_by(model, node))
        found |= {dim: found.get(dim, True) and last for dim in made}
        if last and not made:
            straight |= {tensor.name for tensor in node.inputs}
    return found


# The weight of an operator and its axis of outputs; where the node's own attributes decide, `_made_by` does.
_OUTPUTS = {
    "Conv": (1, 0),
    "ConvInteger": (1, 0),
    "QLinearConv": (3, 0),
    "ConvTranspose": (1, 1),
    "FusedConv": (1, 0),
    "MatMulInteger": (1, -1),
    "QLinearMatMul": (3, -1),
    "LSTM": (2, 2),
    "GRU": (2, 2),
    "RNN": (2, 2),
    "Attention": (1, 1),
    "MatMulNBits": (1, 0),
}


def _made_by(model: Model, node: gs.Node) -> Iterator[Dim]:
    if node.op in ("Gemm", "FusedGemm"):
        places = [(1, 0 if node.attrs.get("transB") else 1)]
    elif node.op in ("MatMul", "FusedMatMul"):
        places = [(1, -1), (0, -2)]
    elif node.op == "Conv" and node.attrs.get("group", 1) > 1 and model.shapes[node.inputs[1].name][1] == 1:
        places = []  # depthwise: the channels are those of its input
    else:
        places = [_OUTPUTS[node.op]] if node.op in _OUTPUTS else []
    for index, axis in places:
        if index < len(node.inputs) and _is_weight(weight := node.inputs[index]):
            rank = len(model.shapes.get(weight.name, ()))
            if rank > 1:
                yield Dim(weight.name, axis % rank)


def _is_weight(tensor: gs.Tensor) -> bool:
    """Whether a tensor is constant, or is a constant in another number format or layout."""
    if isinstance(tensor, gs.Constant):
        return True
    made = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    return made is not None and made.op in ("DequantizeLinear", "Cast", "Transpose") and _is_weight(made.inputs[0])
