"""Gradients with respect to activations, as more nodes of the same graph, for onnxruntime to run.

What an operator makes of a change of its inputs, transposed, is a few operators of ONNX again (reverse accumulation;
Griewank & Walther 2008, chapter 3), so that no training framework is needed. Constants get no gradient, and operators
without an entry in the table pass none on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, ValueInfoProto

from graphprune.calls import calls
from graphprune.model import Model
from graphprune.model.surgeon import is_standard
from graphprune.rules import Call
from graphprune.rules.convolution import padding


class Tape:
    """Nodes that are being added to a model whose numbers are float32."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[gs.Node] = []
        self._opset = opset

    def __call__(self, op: str, *inputs: gs.Tensor | np.ndarray | float, **attrs: Any) -> gs.Variable:
        """The output of a new node; floating-point numbers are taken as float32."""
        name = f"gradient:{len(self.nodes)}"
        tensors = [t if isinstance(t, gs.Tensor) else _constant(f"{name}:{k}", t) for k, t in enumerate(inputs)]
        output = gs.Variable(name, np.float32)
        self.nodes.append(gs.Node(op, name, attrs=attrs, inputs=tensors, outputs=[output]))
        return output

    def reduced(self, op: str, x: gs.Tensor, axes: Sequence[int]) -> gs.Variable:
        """``ReduceSum`` or ``ReduceMean`` over some axes, which stay at size 1."""
        if self._opset < {"ReduceSum": 13, "ReduceMean": 18}[op]:
            return self(op, x, axes=list(axes), keepdims=1)
        return self(op, x, np.array(axes, np.int64), keepdims=1)

    def where(self, x: gs.Tensor, *conditions: gs.Tensor) -> gs.Tensor:
        """``x`` where all conditions hold, else 0."""
        for condition in conditions:
            x = self("Where", condition, x, 0.0)
        return x


def _constant(name: str, values: np.ndarray | float) -> gs.Constant:
    array = np.asarray(values)
    return gs.Constant(name, np.ascontiguousarray(array.astype(np.float32) if array.dtype.kind == "f" else array))


Seed = Callable[[Tape, gs.Variable], gs.Tensor]
"""What the loss's own dependence on a tensor is: the gradient, from the tensor."""


def with_gradients(model: Model, seeds: Mapping[str, Seed], wanted: Sequence[str]) -> tuple[Model, dict[str, str]]:
    """The model with nodes that compute the gradient of a loss.

    Args:
        model: a float32 model with known shapes; the first axis of its inputs may be open.
        seeds: the tensors that the loss depends on.
        wanted: tensors with respect to which gradients are asked for.

    Returns:
        The model with the gradients among its outputs, and their names; tensors that no gradient reaches are left out.
    """
    result = model.copy()
    shaped = [call for _, call in calls(model)]
    tape = Tape(model.opset)
    parts: dict[str, list[gs.Tensor]] = {}

    def total(name: str) -> gs.Tensor:
        if len(parts[name]) > 1:
            parts[name] = [tape("Sum", *parts[name])]
        return parts[name][0]

    for node, call in reversed(list(zip(result.graph.nodes, shaped, strict=True))):
        for tensor in node.outputs:
            if tensor.name in seeds:
                parts.setdefault(tensor.name, []).append(seeds[tensor.name](tape, tensor))
        y = node.outputs[0].name
        adjoint = ADJOINTS.get(node.op) if is_standard(node) and len(node.outputs) == 1 else None
        if y not in parts or call is None or adjoint is None:
            continue
        dy = total(y)
        for k, dx in adjoint(tape, node, call, dy):
            if isinstance(node.inputs[k], gs.Variable):
                parts.setdefault(node.inputs[k].name, []).append(dx)
    names = {name: str(total(name).name) for name in wanted if name in parts}
    result.graph.nodes.extend(tape.nodes)
    return replace(result, header=with_outputs(result.header, names.values())), names


def with_outputs(header: ModelProto, names: Iterable[str]) -> ModelProto:
    """A model's header with more outputs."""
    result = ModelProto()
    result.CopyFrom(header)
    result.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return result


# ---------------------------------------------------------------------------------------------------------- operators

Parts = Iterator[tuple[int, gs.Tensor]]
"""Input number → what this node adds to the gradient of that input."""

Adjoint = Callable[[Tape, gs.Node, Call, gs.Tensor], Parts]


def _same(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, dy


def _reshape(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Reshape", dy, tape("Shape", node.inputs[0]))


def _transpose(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    order = call.attrs.get("perm", range(call.y.rank)[::-1])
    yield 0, tape("Transpose", dy, perm=np.argsort(order).tolist())


def _narrowed(tape: Tape, dx: gs.Tensor, call: Call, k: int) -> Parts:
    """The gradient of input ``k``, summed over the axes along which the input was repeated."""
    operand = call.inputs[k]
    if operand is None or operand.rank != call.y.rank:
        return
    repeated = [axis for axis in range(operand.rank) if operand.shape[axis] != call.y.shape[axis]]
    yield k, tape.reduced("ReduceSum", dx, repeated) if repeated else dx


def _add(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    for k in range(len(node.inputs)):
        yield from _narrowed(tape, dy, call, k)


def _sub(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield from _narrowed(tape, dy, call, 0)
    yield from _narrowed(tape, tape("Neg", dy), call, 1)


def _mul(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    for k in (0, 1):
        yield from _narrowed(tape, tape("Mul", dy, node.inputs[1 - k]), call, k)


def _div(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    share = tape("Div", dy, node.inputs[1])
    yield from _narrowed(tape, share, call, 0)
    yield from _narrowed(tape, tape("Neg", tape("Mul", share, node.outputs[0])), call, 1)


def _relu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape.where(dy, tape("Greater", node.outputs[0], 0.0))


def _leaky_relu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    slope = tape("Mul", dy, call.attrs.get("alpha", 0.01))
    yield 0, tape("Where", tape("Greater", node.inputs[0], 0.0), dy, slope)


def _clip(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    x, inside = node.inputs[0], []
    for k, (name, comparison) in enumerate((("min", "Greater"), ("max", "Less")), start=1):
        if call.attrs.get(name) is not None:
            inside.append(tape(comparison, x, float(call.attrs[name])))
        elif call.input(k) is not None:
            inside.append(tape(comparison, x, node.inputs[k]))
    yield 0, tape.where(dy, *inside)


def _sigmoid(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    y = node.outputs[0]
    yield 0, tape("Mul", dy, tape("Mul", y, tape("Sub", 1.0, y)))


def _tanh(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    y = node.outputs[0]
    yield 0, tape("Mul", dy, tape("Sub", 1.0, tape("Mul", y, y)))


def _erf(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    x = node.inputs[0]
    bell = tape("Exp", tape("Neg", tape("Mul", x, x)))
    yield 0, tape("Mul", dy, tape("Mul", bell, 2 / np.sqrt(np.pi)))


def _hard_sigmoid(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    y = node.outputs[0]
    slope = tape("Mul", dy, call.attrs.get("alpha", 0.2))
    yield 0, tape.where(slope, tape("Greater", y, 0.0), tape("Less", y, 1.0))


def _hard_swish(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    x = node.inputs[0]
    slope = tape("Add", tape("Div", x, 3.0), 0.5)
    between = tape("Where", tape("Less", x, 3.0), tape("Mul", dy, slope), dy)
    yield 0, tape.where(between, tape("Greater", x, -3.0))


def _softmax(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    if call.opset < 13:  # flattens what comes after its axis
        return
    y = node.outputs[0]
    mean = tape.reduced("ReduceSum", tape("Mul", dy, y), [call.attrs.get("axis", -1) % call.y.rank])
    yield 0, tape("Mul", y, tape("Sub", dy, mean))


def _batch_normalization(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    scale, _, _, variance = (o.values for o in call.inputs[1:] if o is not None and o.constant is not None)
    factor = scale / np.sqrt(variance + call.attrs.get("epsilon", 1e-5))
    yield 0, tape("Mul", dy, factor.reshape(-1, *[1] * (call.y.rank - 2)))


def _conv(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """A transposed convolution; without strides that is a convolution by the kernel turned round, which is faster."""
    weight = call.inputs[1]
    if weight is None or weight.constant is None:
        return
    groups, rank = int(call.attrs.get("group", 1)), weight.rank - 2
    strides, dilations = call.attrs.get("strides", [1] * rank), call.attrs.get("dilations", [1] * rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    pads = np.array(padding(call, strides, reach))
    turned = np.array(reach)[:, None] - 1 - pads
    if max(strides) == 1 and turned.min() >= 0:
        inputs_first = weight.values.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        kernel = np.flip(inputs_first.reshape(-1, *inputs_first.shape[2:]), tuple(range(2, 2 + rank)))
        yield 0, tape("Conv", dy, kernel, group=groups, dilations=dilations, pads=turned.T.ravel().tolist())
        return
    ends = (np.array(call.y.shape[2:]) - 1) * strides + reach
    rest = np.array(call.x.shape[2:]) + pads.sum(axis=1) - ends  # rows and columns that no output looks at
    attrs = {"group": groups, "strides": strides, "dilations": dilations, "pads": pads.T.ravel().tolist()}
    yield 0, tape("ConvTranspose", dy, weight.values, output_padding=rest.tolist(), **attrs)


def _average_pool(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    kernel, channels = call.attrs["kernel_shape"], call.x.shape[1]
    strides = call.attrs.get("strides", [1] * len(kernel))
    rest = np.array(call.x.shape[2:]) - (np.array(call.y.shape[2:]) - 1) * strides - kernel
    if any(call.attrs.get("pads", ())) or call.attrs.get("auto_pad", "NOTSET") != "NOTSET" or rest.min() < 0:
        return
    share = np.full((channels, 1, *kernel), 1 / prod(kernel))
    yield 0, tape("ConvTranspose", dy, share, group=channels, strides=strides, output_padding=rest.tolist())


def _mean(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    if call.x.rank == call.y.rank:
        share = tape("Mul", dy, prod(call.y.shape) / prod(call.x.shape))
        yield 0, tape("Expand", share, tape("Shape", node.inputs[0]))


def _gemm(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    weight = call.inputs[1]
    if weight is not None and weight.constant is not None and not call.attrs.get("transA", 0):
        matrix = weight.values if call.attrs.get("transB", 0) else weight.values.T
        yield 0, tape("MatMul", dy, matrix * call.attrs.get("alpha", 1.0))


def _matmul(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    a, b = call.x, call.inputs[1]
    if b is None or min(a.rank, b.rank) < 2 or a.rank != call.y.rank or a.shape[:-2] != call.y.shape[:-2]:
        return

    def turned(k: int, rank: int) -> gs.Tensor:
        return tape("Transpose", node.inputs[k], perm=[*range(rank - 2), rank - 1, rank - 2])

    yield 0, tape("MatMul", dy, turned(1, b.rank))
    if b.shape[:-2] == a.shape[:-2]:
        yield 1, tape("MatMul", turned(0, a.rank), dy)


def _concat(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    axis, start = call.attrs["axis"] % call.y.rank, 0
    for k, operand in enumerate(call.inputs):
        assert operand is not None
        stop = start + operand.shape[axis]
        yield k, tape("Slice", dy, *(np.array([n], np.int64) for n in (start, stop, axis)))
        start = stop


def _pad(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    pads, rank = call.ints("pads", 1), call.x.rank
    if pads is None or len(pads) != 2 * rank or min(pads) < 0 or call.attrs.get("mode", "constant") != "constant":
        return
    ends = [-pad or np.iinfo(np.int64).max for pad in pads[rank:]]
    yield 0, tape("Slice", dy, np.array(pads[:rank], np.int64), np.array(ends, np.int64), np.arange(rank))


ADJOINTS: Mapping[str, Adjoint] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _div,
    "Dropout": _same,
    "Erf": _erf,
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Mul": _mul,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Squeeze": _reshape,
    "Sub": _sub,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
