"""Gradients of pooling, and of what adds up over axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphprune.calibration.adjoints.tape import Adjoint, Parts, Tape
from graphprune.calibration.adjoints.transposed import transposed, unseen
from graphprune.rules import Call
from graphprune.rules.convolution import padding


def _average_pool(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    kernel, channels = call.attrs["kernel_shape"], call.x.shape[1]
    if any(call.attrs.get("pads", ())) or call.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return
    ones, share = [1] * len(kernel), np.full((channels, 1, *kernel), 1 / prod(kernel))
    attrs = {"group": channels, "strides": call.attrs.get("strides", ones), "dilations": ones}
    yield from transposed(tape, call, dy, share, pads=np.zeros((len(kernel), 2), np.int64), **attrs)


def _max_pool(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """To the largest numbers of every window, in equal parts to several.

    A depthwise convolution with the positions of the window as its kernels spreads windows out along an axis of their
    own, and its transpose puts them back.
    """
    kernel, channels = call.attrs["kernel_shape"], call.x.shape[1]
    strides, dilations = (call.attrs.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = np.array(padding(call, strides, reach))
    if unseen(call, strides, reach, pads).min() < 0:  # rounded up: the last window hangs over the edge
        return
    size = prod(kernel)
    places = np.tile(np.eye(size).reshape(size, 1, *kernel), (channels, 1, *[1] * len(kernel)))
    attrs = {"group": channels, "strides": strides, "dilations": dilations}
    spread = np.array([0, channels, size, *call.y.shape[2:]], np.int64)
    window = tape("Reshape", tape("Conv", node.inputs[0], places, pads=pads.T.ravel().tolist(), **attrs), spread)
    share = _shared(tape, window, tape.unsqueezed(node.outputs[0], [2]), tape.unsqueezed(dy, [2]), [2])
    flat = tape("Reshape", share, np.array([0, channels * size, *call.y.shape[2:]], np.int64))
    yield from transposed(tape, call, flat, places, pads=pads, **attrs)


def _most(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Of ``ReduceMax``, ``ReduceMin`` and ``GlobalMaxPool``."""
    axes = [*range(2, call.x.rank)] if node.op == "GlobalMaxPool" else call.ints("axes", 1)
    if axes is None and (len(node.inputs) > 1 or call.attrs.get("noop_with_empty_axes", 0)):
        return
    y, gradient = _with_axes(tape, call, node.outputs[0]), _with_axes(tape, call, dy)
    if y is not None and gradient is not None:
        yield 0, _shared(tape, node.inputs[0], y, gradient, axes or [*range(call.x.rank)])


def _shared(tape: Tape, x: gs.Tensor, y: gs.Tensor, dy: gs.Tensor, axes: Sequence[int]) -> gs.Tensor:
    """``dy`` where ``x`` is ``y``, in equal parts over ``axes``."""
    taken = tape("Cast", tape("Equal", x, y), to=TensorProto.FLOAT)
    return tape("Mul", taken, tape("Div", dy, tape.reduced("ReduceSum", taken, axes)))


def _mean(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    for k, dx in _sum(tape, node, call, dy):
        yield k, tape("Mul", dx, prod(call.y.shape) / prod(call.x.shape))


def _sum(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    if (dx := _with_axes(tape, call, dy)) is not None:
        yield 0, tape("Expand", dx, tape("Shape", node.inputs[0]))


def _l2(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    if (dx := _with_axes(tape, call, tape("Div", dy, node.outputs[0]))) is not None:
        yield 0, tape("Mul", node.inputs[0], dx)


def _with_axes(tape: Tape, call: Call, y: gs.Tensor) -> gs.Tensor | None:
    """What was reduced, with the axes reduced over at size 1 again; ``None`` where it is not known which they are."""
    if call.x.rank == call.y.rank:
        return y
    axes = call.ints("axes", 1)
    return tape.unsqueezed(y, axes) if axes is not None else None


def _softmax(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    y, rank, flattens = node.outputs[0], call.y.rank, call.opset < 13  # along all axes from its own on
    axis = call.attrs.get("axis", 1 if flattens else -1) % rank
    mean = tape.reduced("ReduceSum", tape("Mul", dy, y), [*range(axis, rank)] if flattens else [axis])
    yield 0, tape("Mul", y, tape("Sub", dy, mean))


ADJOINTS: Mapping[str, Adjoint] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _mean,
    "GlobalMaxPool": _most,
    "MaxPool": _max_pool,
    "ReduceL2": _l2,
    "ReduceMax": _most,
    "ReduceMean": _mean,
    "ReduceMin": _most,
    "ReduceSum": _sum,
    "Softmax": _softmax,
}
