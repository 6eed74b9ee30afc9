"""Gradients of convolutions and matrix products, with respect to what they read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.adjoints.tape import Adjoint, Parts, Tape
from graphprune.calibration.adjoints.transposed import transposed
from graphprune.rules import Call
from graphprune.rules.convolution import padding


def _conv(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    weight = call.inputs[1]
    if weight is None or weight.constant is None:
        return
    group, rank = int(call.attrs.get("group", 1)), weight.rank - 2
    strides, dilations = (call.attrs.get(name, [1] * rank) for name in ("strides", "dilations"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    pads = np.array(padding(call, strides, reach))
    yield from transposed(tape, call, dy, weight.values, group=group, strides=strides, dilations=dilations, pads=pads)


def _conv_transpose(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """The convolution that it is the transpose of."""
    weight = call.inputs[1]
    if weight is None or weight.constant is None or call.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return
    if "output_shape" not in call.attrs:
        attrs = {name: call.attrs[name] for name in ("group", "strides", "dilations", "pads") if name in call.attrs}
        yield 0, tape("Conv", dy, node.inputs[1], **attrs)


def _gemm(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    weight = call.inputs[1]
    if weight is not None and weight.constant is not None and not call.attrs.get("transA", 0):
        matrix = weight.values if call.attrs.get("transB", 0) else weight.values.T
        yield 0, tape("MatMul", dy, matrix * call.attrs.get("alpha", 1.0))


def _matmul(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    a, b = call.x, call.inputs[1]
    if b is None or min(a.rank, b.rank) < 2 or a.rank != call.y.rank or a.shape[:-2] != call.y.shape[:-2]:
        return

    if b.rank == 2 and b.constant is not None:  # read as it is; a product with its transpose would hold it twice
        flat = tape("Reshape", dy, np.array([-1, b.shape[1]], np.int64))
        yield 0, tape("Reshape", tape("Gemm", flat, node.inputs[1], transB=1), tape("Shape", node.inputs[0]))
        return

    def turned(k: int, rank: int) -> gs.Tensor:
        return tape("Transpose", node.inputs[k], perm=[*range(rank - 2), rank - 1, rank - 2])

    yield 0, tape("MatMul", dy, turned(1, b.rank))
    if b.shape[:-2] == a.shape[:-2]:
        yield 1, tape("MatMul", turned(0, a.rank), dy)


ADJOINTS: Mapping[str, Adjoint] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
