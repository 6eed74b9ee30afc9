"""Operators that treat every element alike: all axes pass through, broadcast ones stay behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.rules.base import Call, Operand, Rule, Ties, alone, every, first, never, some, tie, tie_all


def _broadcast_ties(call: Call) -> Ties:
    """Numpy broadcasting: axes are aligned from the end; an input axis of size 1 serves every position."""
    for x in call.inputs:
        if x is not None:
            yield from aligned(x, call.y)


def aligned(x: Operand, y: Operand) -> Ties:
    """The axes of an operand that is broadcast to y."""
    for back in range(1, x.rank + 1):
        if x.shape[-back] == y.shape[-back]:
            yield tie(x, x.rank - back, y, y.rank - back)


def _prelu_ties(call: Call) -> Ties:
    """The slope is broadcast to x."""
    x, y = call.x, call.y
    yield from tie_all(x, y)
    slope = call.inputs[1]
    assert slope is not None
    yield from aligned(slope, y)


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


def _clip_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where 0 is within the bounds."""
    for index, attribute, sign in ((1, "min", 1), (2, "max", -1)):
        bound = call.input(index)
        if bound is not None and bound.constant is None:
            return never(call, zero)
        value = call.attrs.get(attribute, 0) if bound is None else bound.values
        if (sign * np.asarray(value) > 0).any():
            return never(call, zero)
    return first(call, zero)


def _pow_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """0 to a power above 0 is 0."""
    power = call.inputs[1]
    positive = power is not None and power.constant is not None and (power.values > 0).all()
    return first(call, zero) if positive else never(call, zero)


def _div_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where the dividend is 0 and the divisor is not."""
    return zero[0] & ~zero[1]


def _where_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where both choices are."""
    return zero[1] & zero[2]


# f(0) = 0
_UNARY_SILENT = [
    "Abs",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitCast",
    "Cast",
    "Ceil",
    "Celu",
    "Elu",
    "Erf",
    "Floor",
    "Gelu",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sign",
    "Sin",
    "Sinh",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
# f(0) ≠ 0
_UNARY = [
    "Acos",
    "Acosh",
    "BitwiseNot",
    "Cos",
    "Cosh",
    "Exp",
    "HardSigmoid",
    "IsInf",
    "IsNaN",
    "Log",
    "Not",
    "Reciprocal",
    "Sigmoid",
    "Softplus",
]
_SUMS = ["Add", "Max", "Mean", "Min", "Sub", "Sum"]
_PRODUCTS = ["And", "BitwiseAnd", "Mul"]
_BROADCAST = [
    "BitShift",
    "BitwiseOr",
    "BitwiseXor",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Or",
    "SwiGLU",
    "Xor",
]

RULES = {
    **dict.fromkeys(_UNARY_SILENT, Rule(_unary_ties, silence=first)),
    **dict.fromkeys(_UNARY, Rule(_unary_ties)),
    "Dropout": Rule(_unary_ties, silence=alone(first)),
    "Clip": Rule(_unary_ties, silence=_clip_silence),
    **dict.fromkeys(_SUMS, Rule(_broadcast_ties, silence=every)),
    **dict.fromkeys(_PRODUCTS, Rule(_broadcast_ties, silence=some)),
    **dict.fromkeys(_BROADCAST, Rule(_broadcast_ties)),
    "Pow": Rule(_broadcast_ties, silence=_pow_silence),
    "Where": Rule(_broadcast_ties, silence=_where_silence),
    **dict.fromkeys(["Div", "Mod"], Rule(_broadcast_ties, neutral={1: 1.0}, silence=_div_silence)),
    "CastLike": Rule(_cast_like_ties, silence=first),
    "PRelu": Rule(_prelu_ties, silence=first),
}
