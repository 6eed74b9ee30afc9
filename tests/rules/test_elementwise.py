"""The law on tiny nets with elementwise operators."""

from __future__ import annotations

import numpy as np
import pytest

from tests.law import Case, among, between, case, check

F = np.float32
# Operators that take any float and give a float, with the attributes and opset they need.
PLAIN = """Abs Atan Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Mish:18 Neg Relu
           Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Tan Tanh ThresholdedRelu Gelu:20 Sinh Cosh Asinh
           Swish:24"""
# Operators defined on a part of the line: what brings their input there.
PARTIAL = {
    "Acos": "v = Tanh(t)",
    "Asin": "v = Tanh(t)",
    "Atanh": "w0 = Tanh(t)\nv = Mul(w0, half)",
    "Acosh": "w0 = Abs(t)\nv = Add(w0, two)",
    "Sqrt": "v = Abs(t)",
    "Log": "w0 = Abs(t)\nv = Add(w0, two)",
    "Reciprocal": "w0 = Abs(t)\nv = Add(w0, two)",
}


def _plain(entry: str) -> Case:
    op, _, opset = entry.partition(":")
    return between(op, f"u = {op}(t)", opset=int(opset or 17))


def _scalars(body: str) -> dict[str, np.ndarray]:
    known = {"half": np.array(0.5, F), "two": np.array(2.0, F), "zero": np.array(0.0, F)}
    return {name: value for name, value in known.items() if f"{name})" in body or f"{name}," in body}


def _with_scalars(name: str, body: str, *groups: str, **options: object) -> Case:
    return between(name, body, *groups, **{**options, **_scalars(body)})


def _bits(name: str, body: str, *groups: str, **options: object) -> Case:
    """A case whose body makes ``w1`` from ``v``, whole numbers, and a convolution reads it."""
    text = f"w0 = Mul(t, hundred)\nv = Cast<to=6>(w0)\n{body}\nu = Cast<to=1>(w1)"
    return between(name, text, *groups, opset=18, hundred=np.array(100, F), **options)


UNARY = [
    *map(_plain, PLAIN.split()),
    *(_with_scalars(op, f"{before}\nu = {op}(v)") for op, before in PARTIAL.items()),
    between("BitCast there and back", "v = BitCast<to=6>(t)\nu = BitCast<to=1>(v)", opset=26),
    *(
        _bits(f"{op}", f"w1 = {op}(v, k)", "6 a[0] c[0] b[1]", k=np.arange(6, dtype=np.int32).reshape(6, 1, 1))
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
    ),
    _bits("BitwiseNot", "w1 = BitwiseNot(v)"),
    between(
        "BitShift",
        'v = Abs(t)\nw0 = Cast<to=12>(v)\nw1 = BitShift<direction="LEFT">(w0, k)\nu = Cast<to=1>(w1)',
        matters=False,
        k=np.array(2, np.uint32),
    ),
    between(
        "CastLike, of which the second input may be anything",
        "v = CastLike(t, k)\nu = Relu(v)",
        "6 a[0] c[0] b[1]",
        "6 k[0]",
        k=(6,),
    ),
    between(
        "CastLike like another layer, which is cut on its own",
        "s = Conv(x, d)\nv = CastLike(t, s)\nm = Conv(s, e)\nu = Add(v, m)",
        "6 a[0] c[0] e[0] b[1]",
        "5 d[0] e[1]",
        d=(5, 3, 1, 1),
        e=(6, 5, 1, 1),
    ),
    between("Cast there and back", "v = Cast<to=11>(t)\nu = Cast<to=1>(v)"),
    between("Clip with inputs", "u = Clip(t, low, high)", low=np.array(-0.5, F), high=np.array(0.7, F)),
    between("Clip without a lower bound", "u = Clip(t, , high)", high=np.array(0.1, F)),
    between("Clip with attributes", "u = Clip<min=-0.5, max=0.7>(t)", opset=9),
    between("Dropout", "u = Dropout(t)"),
    between("Dropout, opset 9", "u = Dropout<ratio=0.4>(t)", opset=9),
    between(
        "Dropout with a mask that is read",
        "v, m = Dropout(t, r)\nn = Cast<to=1>(m)\nu = Mul(v, n)",
        r=np.array(0.3, F),
    ),
    between("IsNaN", "p = IsNaN(t)\nq = Cast<to=1>(p)\nu = Add(q, t)"),
    between("IsInf", "p = IsInf(t)\nq = Cast<to=1>(p)\nu = Sub(t, q)"),
    _with_scalars("Not", "p = Greater(t, zero)\nq = Not(p)\nu = Cast<to=1>(q)"),
    between("PRelu, one slope", "u = PRelu(t, s)", s=np.array([0.3], F)),
    between("PRelu, a slope per channel", "u = PRelu(t, s)", "6 a[0] c[0] s[0] b[1]", s=(6, 1, 1)),
    between("PRelu, slopes of rank 4", "u = PRelu(t, s)", "6 a[0] c[0] s[1] b[1]", s=(1, 6, 1, 1)),
]
BINARY = [
    *(_with_scalars(f"{op} with a scalar", f"u = {op}(t, half)") for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(
        between(f"{op} with [C, 1, 1]", f"u = {op}(t, k)", "6 a[0] c[0] k[0] b[1]", k=(6, 1, 1))
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")
    ),
    *(
        between(f"{op} with [1, C, 1, 1] first", f"u = {op}(k, t)", "6 a[0] c[0] k[1] b[1]", k=(1, 6, 1, 1))
        for op in ("Add", "Sub", "Mul")
    ),
    between("Add with one element of rank 1", "u = Add(t, k)", k=(1,)),
    between("Add with a constant that has a channel axis of 1", "u = Add(t, k)", k=(1, 1, 8, 8)),
    between("Add along another axis of the channels' size", "u = Mul(t, k)", inputs="float[1,3,8,6] x", k=(6,)),
    among("Add along the last axis", "u = Add(t, k)", "6 a[1] k[0] b[0]", k=(6,)),
    among("Div along the last axis", "u = Div(t, k)", "6 a[1] k[0] b[0]", k=(6,)),
    *(between(f"{op} of a tensor and itself", f"u = {op}(t, t)") for op in ("Add", "Mul", "Max")),
    *(
        between(
            f"{op} of three inputs",
            f"s = Conv(x, d)\nu = {op}(t, s, k)",
            "6 a[0] c[0] d[0] k[1] b[1]",
            d=(6, 3, 1, 1),
            k=(1, 6, 1, 1),
        )
        for op in ("Sum", "Max", "Min", "Mean")
    ),
    between(
        "Mul by a gate of one value per channel",
        "g = GlobalAveragePool(t)\nh = Conv(g, d)\ns = Sigmoid(h)\nu = Mul(t, s)",
        "6 a[0] c[0] d[0] d[1] b[1]",
        d=(6, 6, 1, 1),
    ),
    between(
        "Mul by a gate shared by all channels", "h = Conv(t, d)\nu = Mul(t, h)", "6 a[0] c[0] d[1] b[1]", d=(1, 6, 1, 1)
    ),
    between(
        "Div by a computed tensor", "s = Conv(x, d)\nv = Exp(s)\nu = Div(t, v)", "6 a[0] c[0] d[0] b[1]", d=(6, 3, 1, 1)
    ),
    case(
        "a channel that is broadcast serves all and stays",
        "t = Conv(x, a)\ns = Conv(x, d)\nu = Add(t, s)\ny = Conv(u, b)",
        "6 d[0] b[1]",
        a=(1, 3, 1, 1),
        d=(6, 3, 1, 1),
        b=(4, 6, 1, 1),
    ),
    case(
        "broadcasting against the graph input pins",
        "t = Conv(x, a)\nu = Add(t, x)\ny = Conv(u, b)",
        a=(3, 3, 1, 1),
        b=(4, 3, 1, 1),
    ),
    *(
        _with_scalars(
            f"{op} of booleans", f"p = Greater(t, zero)\nq = Less(t, half)\nr = {op}(p, q)\nu = Cast<to=1>(r)"
        )
        for op in ("And", "Or", "Xor")
    ),
    *(
        between(f"{op}", f"r = {op}(t, k)\nq = Cast<to=1>(r)\nu = Add(q, t)", "6 a[0] c[0] k[0] b[1]", k=(6, 1, 1))
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    ),
    between("Where", "p = Greater(t, k)\nu = Where(p, t, k)", "6 a[0] c[0] k[0] b[1]", k=(6, 1, 1)),
    between(
        "Where with a constant condition",
        "u = Where(m, t, k)",
        "6 a[0] c[0] k[0] b[1]",
        k=(6, 1, 1),
        m=np.arange(6).reshape(6, 1, 1) % 2 == 0,
    ),
    between("Pow with a scalar", "v = Abs(t)\nu = Pow(v, e)", e=np.array(1.5, F)),
    between(
        "Pow with an exponent per channel",
        "v = Abs(t)\nu = Pow(v, e)",
        "6 a[0] c[0] e[0] b[1]",
        e=np.full((6, 1, 1), 1.5, F),
    ),
    between(
        "Mod by a number per channel", "u = Mod<fmod=1>(t, k)", "6 a[0] c[0] k[0] b[1]", k=np.full((6, 1, 1), 0.7, F)
    ),
]


def averaged(name: str, body: str, *, silent: bool, **options: object) -> Case:
    """A case whose body makes v, of which the mean over the channels is taken: they may go where v is silent."""
    text = f"{body}\nu = ReduceMean<axes=[1]>(v)"
    return between(name, text, "6 a[0] c[0]", pinned=not silent, b=(4, 1, 1, 1), **options)


SILENT = [
    averaged("Clip about 0", "v = Clip(t, low, high)", silent=True, low=np.array(-0.5, F), high=np.array(0.7, F)),
    averaged("Clip above 0", "v = Clip(t, low)", silent=False, low=np.array(0.5, F)),
    averaged("Clip above 1", "v = Clip(t, low)", silent=False, low=np.array(1.5, F)),
    averaged("Clip below 0", "v = Clip(t, , high)", silent=False, high=np.array(-0.5, F)),
    averaged("Clip about 0, opset 9", "v = Clip<min=-0.5, max=0.7>(t)", silent=True, opset=9),
    averaged("Clip above 0, opset 9", "v = Clip<min=0.5, max=0.7>(t)", silent=False, opset=9),
    averaged("Clip below 0, opset 9", "v = Clip<min=-0.7, max=-0.5>(t)", silent=False, opset=9),
    averaged("Clip without a lower bound, averaged", "v = Clip(t, , high)", silent=True, high=np.array(0.5, F)),
    averaged("Clip without a lower bound, opset 9", "v = Clip<max=0.5>(t)", silent=True, opset=9),
    averaged("Clip without an upper bound, opset 9", "v = Clip<min=-0.5>(t)", silent=True, opset=9),
    averaged("Clip by a computed bound", "low = ReduceMin<keepdims=0>(x)\nv = Clip(t, low)", silent=False),
    averaged("Div by 2", "v = Div(t, e)", silent=True, e=np.array(2, F)),
    averaged("Div by 2 of what is not silent", "w = Exp(t)\nv = Div(w, e)", silent=False, e=np.array(2, F)),
    averaged(
        "Where, silent in both choices",
        "p = Greater(t, e)\nw = Tanh(t)\nv = Where(p, t, w)",
        silent=True,
        e=np.array(0.1, F),
    ),
    *(
        averaged(
            f"Where, not silent in the {which} choice",
            f"p = Greater(t, e)\nw = Exp(t)\nv = Where(p, {choices})",
            silent=False,
            e=np.array(0.1, F),
        )
        for which, choices in (("first", "w, t"), ("second", "t, w"))
    ),
    averaged("Pow", "w = Abs(t)\nv = Pow(w, e)", silent=True, e=np.array(1.5, F)),
    averaged("Pow by less than 1", "w = Abs(t)\nv = Pow(w, e)", silent=True, e=np.array(0.5, F)),
    averaged("Pow by 0", "w = Abs(t)\nv = Pow(w, e)", silent=False, e=np.zeros((1, 6, 1, 1), F)),
    averaged("Pow by what is computed", "w = Abs(t)\ne = ReduceMax<keepdims=0>(w)\nv = Pow(w, e)", silent=False),
]
CASES = [*UNARY, *BINARY, *SILENT]
# onnxruntime has no kernel for this: what its rule says is looked at, and nothing is run.
NOT_RUN = [among("SwiGLU", "g = MatMul(x, d)\nu = SwiGLU(t, g)", opset=28, d=(3, 6))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)
