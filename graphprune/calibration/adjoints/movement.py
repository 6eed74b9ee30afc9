"""Gradients of operators that lay numbers out anew."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.adjoints.tape import Adjoint, Parts, Tape, narrowed
from graphprune.rules import Call


def _reshape(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Reshape", dy, tape("Shape", node.inputs[0]))


def _transpose(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    order = call.attrs.get("perm", range(call.y.rank)[::-1])
    yield 0, tape("Transpose", dy, perm=np.argsort(order).tolist())


def _concat(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    axis, start = call.attrs["axis"] % call.y.rank, 0
    for k, operand in enumerate(call.inputs):
        assert operand is not None
        stop = start + operand.shape[axis]
        last = k > 0 and k == len(call.inputs) - 1  # behind what was read before, of which there may be less now
        first, end = (-operand.shape[axis], np.iinfo(np.int64).max) if last else (start, stop)
        yield k, tape("Slice", dy, *(np.array([n], np.int64) for n in (first, end, axis)))
        start = stop


def _slice(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Zeros where nothing was taken from; of slices in steps of one, with sizes that the graph holds."""
    starts, ends, axes, steps = (call.ints(name, k) for k, name in enumerate(("starts", "ends", "axes", "steps"), 1))
    if starts is None or ends is None or any(step != 1 for step in steps or ()):
        return
    before, after = [0] * call.x.rank, [0] * call.x.rank
    for start, end, axis in zip(starts, ends, axes if axes is not None else range(len(starts)), strict=True):
        size = call.x.shape[axis]
        first, last, _ = slice(start, end).indices(size)
        before[axis], after[axis] = first, size - last
    yield 0, tape("Pad", dy, np.array([*before, *after], np.int64))


def _gather(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Of one position, which the graph holds, along an axis of known size."""
    axis, index = call.attrs.get("axis", 0) % call.x.rank, call.ints("", 1)
    if index is None or call.y.rank == call.x.rank:
        return
    before, size = index[0] % call.x.shape[axis], call.x.shape[axis]
    pads = np.zeros((2, call.x.rank), np.int64)
    pads[:, axis] = before, size - 1 - before
    yield 0, tape("Pad", tape.unsqueezed(dy, [axis]), pads.ravel())


def _expand(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield from narrowed(tape, dy, call, 0)


def _pad(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    pads, rank = call.ints("pads", 1), call.x.rank
    if pads is None or len(pads) != 2 * rank or min(pads) < 0 or call.attrs.get("mode", "constant") != "constant":
        return
    ends = [-pad or np.iinfo(np.int64).max for pad in pads[rank:]]
    yield 0, tape("Slice", dy, np.array(pads[:rank], np.int64), np.array(ends, np.int64), np.arange(rank))


ADJOINTS: Mapping[str, Adjoint] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
