"""Gradients of operators that compute every number from the numbers at its own place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphprune.calibration.adjoints.tape import Adjoint, Parts, Tape, narrowed
from graphprune.rules import Call


def _same(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, dy


def _cast(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Where nothing is cast, as exporters do ahead of a norm; other types have no gradient on the tape."""
    if call.inputs[0] is not None and call.inputs[0].dtype == call.y.dtype == np.float32:
        yield 0, dy


def _add(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    for k in range(len(node.inputs)):
        yield from narrowed(tape, dy, call, k)


def _sub(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield from narrowed(tape, dy, call, 0)
    yield from narrowed(tape, tape("Neg", dy), call, 1)


def _mul(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    for k in (0, 1):
        yield from narrowed(tape, tape("Mul", dy, node.inputs[1 - k]), call, k)


def _div(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    share = tape("Div", dy, node.inputs[1])
    yield from narrowed(tape, share, call, 0)
    yield from narrowed(tape, tape("Neg", tape("Mul", share, node.outputs[0])), call, 1)


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
    yield from narrowed(tape, tape("Where", node.inputs[0], dy, 0.0), call, 1)
    yield from narrowed(tape, tape("Where", node.inputs[0], 0.0, dy), call, 2)


def _exp(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Mul", dy, node.outputs[0])


def _log(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Div", dy, node.inputs[0])


def _abs(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Mul", dy, tape("Sign", node.inputs[0]))


def _extreme(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Of ``Max`` and ``Min``: to the operand that was taken, in equal parts to several."""
    taken = [tape("Cast", tape("Equal", x, node.outputs[0]), to=TensorProto.FLOAT) for x in node.inputs]
    share = tape("Div", dy, tape("Sum", *taken))
    for k, one in enumerate(taken):
        yield from narrowed(tape, tape("Mul", share, one), call, k)


def _relu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape.where(dy, tape("Greater", node.outputs[0], 0.0))


def _leaky_relu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    slope = tape("Mul", dy, call.attrs.get("alpha", 0.01))
    yield 0, tape("Where", tape("Greater", node.inputs[0], 0.0), dy, slope)


def _prelu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Where", tape("Greater", node.inputs[0], 0.0), dy, tape("Mul", dy, node.inputs[1]))


def _elu(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    slope = tape("Add", node.outputs[0], call.attrs.get("alpha", 1.0))
    yield 0, tape("Where", tape("Greater", node.inputs[0], 0.0), dy, tape("Mul", dy, slope))


def _softplus(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, tape("Mul", dy, tape("Sigmoid", node.inputs[0]))


def _mish(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    """Of x t, t the tanh of x's softplus: t + x (1 - t²) σ(x)."""
    x = node.inputs[0]
    t = tape("Tanh", tape("Softplus", x))
    bend = tape("Mul", tape("Mul", x, tape("Sigmoid", x)), tape("Sub", 1.0, tape("Mul", t, t)))
    yield 0, tape("Mul", dy, tape("Add", t, bend))


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


ADJOINTS: Mapping[str, Adjoint] = {
    "Abs": _abs,
    "Add": _add,
    "Cast": _cast,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _same,
    "Elu": _elu,
    "Erf": _erf,
    "Exp": _exp,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "Log": _log,
    "Max": _extreme,
    "Min": _extreme,
    "Mish": _mish,
    "Mul": _mul,
    "Neg": _neg,
    "PRelu": _prelu,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Sqrt": _sqrt,
    "Sub": _sub,
    "Tanh": _tanh,
    "Where": _where,
}
