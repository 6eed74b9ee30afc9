"""What operators make of a change of their inputs, transposed: of every operator, the nodes that hand gradients on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

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


Parts = Iterator[tuple[int, gs.Tensor]]
"""Input number → what this node adds to the gradient of that input."""

Adjoint = Callable[[Tape, gs.Node, Call, gs.Tensor], Parts]


def _same(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, dy


def _cast(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Where nothing is cast, as exporters do ahead of a norm; other types have no gradient on the tape."""
    if call.inputs[0] is not None and call.inputs[0].dtype == call.y.dtype == np.float32:
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


def _neg(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Neg", dy)


def _pow(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Of powers that the graph holds."""
    power = call.inputs[1]
    if power is not None and power.constant is not None and power.values.size == 1:
        n = float(power.values.reshape(-1)[0])
        yield 0, tape("Mul", dy, tape("Mul", tape("Pow", node.inputs[0], n - 1), n))


def _sqrt(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Div", dy, tape("Mul", node.outputs[0], 2.0))


def _reciprocal(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    y = node.outputs[0]
    yield 0, tape("Neg", tape("Mul", dy, tape("Mul", y, y)))


def _where(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield from _narrowed(tape, tape("Where", node.inputs[0], dy, 0.0), call, 1)
    yield from _narrowed(tape, tape("Where", node.inputs[0], 0.0, dy), call, 2)


def _relu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape.where(dy, tape("Greater", node.outputs[0], 0.0))


def _leaky_relu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    slope = tape("Mul", dy, call.attrs.get("alpha", 0.01))
    yield 0, tape("Where", tape("Greater", node.inputs[0], 0.0), dy, slope)


def _clip(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape.where(dy, tape("Equal", node.inputs[0], node.outputs[0]))


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


def _gelu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Of the exact one: the normal distribution and its density."""
    if call.attrs.get("approximate", "none") != "none":
        return
    x = node.inputs[0]
    share = tape("Mul", tape("Add", tape("Erf", tape("Mul", x, 0.5**0.5)), 1.0), 0.5)
    density = tape("Mul", tape("Exp", tape("Mul", tape("Mul", x, x), -0.5)), 1 / np.sqrt(2 * np.pi))
    yield 0, tape("Mul", dy, tape("Add", share, tape("Mul", x, density)))


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


def _layer_normalization(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, _normalized(tape, node, call, dy, centred=True)


def _rms_normalization(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, _normalized(tape, node, call, dy, centred=False)


def _normalized(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor, centred: bool) -> gs.Tensor:
    """With g the gradient of what is scaled, u: (g - mean(g) - u mean(g u)) / size, mean(g) where u is centred."""
    x: gs.Tensor = node.inputs[0]
    axes = list(range(call.attrs.get("axis", -1) % call.x.rank, call.x.rank))
    if centred:
        x = tape("Sub", x, tape.reduced("ReduceMean", x, axes))
    square = tape.reduced("ReduceMean", tape("Mul", x, x), axes)
    size = tape("Sqrt", tape("Add", square, float(call.attrs.get("epsilon", 1e-5))))
    u, g = tape("Div", x, size), tape("Mul", dy, node.inputs[1])
    along = tape("Sub", g, tape("Mul", u, tape.reduced("ReduceMean", tape("Mul", g, u), axes)))
    if centred:
        along = tape("Sub", along, tape.reduced("ReduceMean", g, axes))
    return tape("Div", along, size)


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
    return tape("Unsqueeze", y, np.array(axes, np.int64)) if axes is not None and call.opset >= 13 else None


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


def _expand(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield from _narrowed(tape, dy, call, 0)


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
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _div,
    "Dropout": _same,
    "Erf": _erf,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _same,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": _neg,
    "Pad": _pad,
    "Pow": _pow,
    "RMSNormalization": _rms_normalization,
    "Reciprocal": _reciprocal,
    "ReduceL2": _l2,
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": _sqrt,
    "Squeeze": _reshape,
    "Sub": _sub,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "Where": _where,
}
