"""Operators that treat every element alike: all axes pass through, broadcast ones stay behind."""

from __future__ import annotations

from graphprune.rules.base import Call, Operand, Rule, Ties, tie, tie_all


def _broadcast_ties(call: Call) -> Ties:
    """Numpy broadcasting: axes are aligned from the end; an input axis of size 1 serves every position."""
    for x in call.inputs:
        if x is not None:
            yield from _aligned(x, call.y)


def _aligned(x: Operand, y: Operand) -> Ties:
    for back in range(1, x.rank + 1):
        if x.shape[-back] == y.shape[-back]:
            yield tie(x, x.rank - back, y, y.rank - back)


def _prelu_ties(call: Call) -> Ties:
    """The slope is broadcast to x."""
    x, y = call.x, call.y
    yield from tie_all(x, y)
    slope = call.inputs[1]
    assert slope is not None
    yield from _aligned(slope, y)


def _unary_ties(call: Call) -> Ties:
    """Only the first input is data; what follows (bounds, ratios) is scalar. All outputs have its shape."""
    for y in call.outputs:
        if y is not None:
            yield from tie_all(call.x, y)


def _cast_like_ties(call: Call) -> Ties:
    """Of the second input only the type matters: it may lose what it likes."""
    yield from tie_all(call.x, call.y)
    like = call.inputs[1]
    assert like is not None
    yield from tie_all(like, like)


_UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitCast",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
_BROADCAST = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "SwiGLU",
    "Where",
    "Xor",
]

RULES = {
    **dict.fromkeys(_UNARY, Rule(_unary_ties)),
    **dict.fromkeys(_BROADCAST, Rule(_broadcast_ties)),
    **dict.fromkeys(["Div", "Mod"], Rule(_broadcast_ties, neutral={1: 1.0})),
    "CastLike": Rule(_cast_like_ties),
    "PRelu": Rule(_prelu_ties),
}
