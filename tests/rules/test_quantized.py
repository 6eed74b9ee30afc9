"""The law on tiny nets of whole numbers that stand for real ones."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.calls import zero_points
from graphprune.groups import analyse
from graphprune.model import load
from tests.law import Case, case, check, net

RNG = np.random.default_rng(0)
TENTH, HALF = np.array(0.1, np.float32), np.array(0.05, np.float32)


def whole(*shape: int, dtype: type = np.int8) -> np.ndarray:
    """Quantised weights over the whole range of their type."""
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype)


def scales(count: int) -> np.ndarray:
    return RNG.uniform(0.01, 0.03, count).astype(np.float32)


ACTIVATION = "q{0} = QuantizeLinear({0}, s, z)\nd{0} = DequantizeLinear(q{0}, s, z)\n"
ACTIVATIONS = {"s": TENTH, "z": np.array(3, np.int8)}
QDQ = "w = DequantizeLinear{axis}(a, sa{za})\nt = Conv(x, w)\n" + ACTIVATION.format("t")
INTEGER = "qx, sx, zx = DynamicQuantizeLinear(x)\n"


def _linear_chain(zero: object, groups: tuple[str, ...], name: str) -> Case:
    """Two products, or convolutions, of whole numbers, one behind the other."""
    return case(
        name,
        "q = QuantizeLinear(x, s, z)\nt = QLinearConv(q, s, z, a, sa, za, s, z, c)\n"
        "u = QLinearConv<pads=[1,1,1,1]>(t, s, z, b, sb, zb, s, z)\ny = DequantizeLinear(u, s, z)",
        *groups,
        **ACTIVATIONS,
        a=whole(6, 3, 1, 1),
        sa=scales(6),
        za=np.zeros(6, np.int8),
        c=RNG.integers(-99, 99, 6, np.int32),
        b=whole(4, 6, 3, 3),
        sb=HALF,
        zb=zero,
    )


CASES = [
    case(
        "QDQ, one scale for all",
        QDQ.format(axis="", za=", za") + "v = DequantizeLinear(b, sa, zb)\ny = Conv(dt, v)",
        "6 a[0] b[1]",
        **ACTIVATIONS,
        a=whole(6, 3, 1, 1),
        sa=HALF,
        za=np.array(0, np.int8),
        b=whole(4, 6, 1, 1, dtype=np.uint8),
        zb=np.array(117, np.uint8),
    ),
    case(
        "QDQ, a scale for each filter, without zero points, with a quantised bias",
        "w = DequantizeLinear<axis=0>(a, sa)\ne = DequantizeLinear<axis=0>(c, sc)\nt = Conv(x, w, e)\n"
        + ACTIVATION.format("t")
        + "y = Conv(dt, b)",
        "6 a[0] sa[0] c[0] sc[0] b[1]",
        **ACTIVATIONS,
        a=whole(6, 3, 1, 1),
        sa=scales(6),
        c=RNG.integers(-99, 99, 6, np.int32),
        sc=scales(6),
        b=(4, 6, 1, 1),
    ),
    case(
        "QDQ, activations with a scale for each channel, which may not be zero",
        "t = Conv(x, a)\nq = QuantizeLinear<axis=1>(t, sc, zc)\nd = DequantizeLinear(q, sc, zc)\ny = Conv(d, b)",
        "6 a[0] sc[0] b[1]",
        a=(6, 3, 1, 1),
        sc=scales(6),
        zc=RNG.integers(-5, 5, 6, np.int8),
        b=(4, 6, 1, 1),
    ),
    case(
        "QDQ of a product, columns on the last axis",
        "w = DequantizeLinear<axis=-1>(a, sa)\nt = MatMul(x, w)\nv = DequantizeLinear(b, sb, zb)\ny = MatMul(t, v)",
        "6 a[1] sa[0] b[0]",
        inputs="float[5,3] x",
        a=whole(3, 6),
        sa=scales(6),
        b=whole(6, 4),
        sb=HALF,
        zb=np.array(-7, np.int8),
    ),
    *(
        case(
            f"QDQ whose filters have different zero points, read by {op}",
            f"s = Conv(x, a)\nt = {op}(s)\nv = DequantizeLinear<axis=0>(b, sb, zb)\ny = Conv(t, v)",
            *groups,
            a=(6, 3, 1, 1),
            b=whole(4, 6, 1, 1),
            sb=scales(4),
            zb=np.array([1, 2, 3, 4], np.int8),
        )
        for op, groups in (("Tanh", ("6 a[0]",)), ("Exp", ()))
    ),
    case(
        "QDQ in blocks of the axis summed over: it stays, the other goes",
        "w = DequantizeLinear<axis=0, block_size=2>(a, sa)\nt = MatMul(x, w)\nu = Relu(t)\n"
        "v = DequantizeLinear<axis=0, block_size=3>(b, sb)\ny = MatMul(u, v)",
        inputs="float[5,4] x",
        opset=21,
        a=whole(4, 6),
        sa=np.full((2, 6), 0.02, np.float32),
        b=whole(6, 4),
        sb=np.full((2, 4), 0.03, np.float32),
    ),
    case(
        "QDQ in blocks of the axis summed over, of which the columns go",
        "w = DequantizeLinear<axis=0, block_size=2>(a, sa)\nt = MatMul(x, w)\nu = Tanh(t)\ny = MatMul(u, b)",
        "6 a[1] sa[1] b[0]",
        inputs="float[5,4] x",
        opset=21,
        a=whole(4, 6),
        sa=np.full((2, 6), 0.02, np.float32),
        b=(6, 4),
    ),
    _linear_chain(np.array(5, np.int8), ("6 a[0] sa[0] b[1]",), "QLinearConv"),
    _linear_chain(np.arange(4, dtype=np.int8), (), "QLinearConv whose filters have different zero points: it stays"),
    case(
        "QLinearConv, depthwise",
        "q = QuantizeLinear(x, s, z)\nt = QLinearConv(q, s, z, a, sb, zb, s, z)\n"
        "w = QLinearConv<group=6>(t, s, z, e, sb, zb, s, z)\nu = QLinearConv(w, s, z, b, sb, zb, s, z)\n"
        "y = DequantizeLinear(u, s, z)",
        "6 a[0] e[0] b[1]",
        **ACTIVATIONS,
        a=whole(6, 3, 1, 1),
        e=whole(6, 1, 3, 3),
        b=whole(4, 6, 1, 1),
        sb=HALF,
        zb=np.array(0, np.int8),
    ),
    case(
        "QLinearMatMul",
        "q = QuantizeLinear(x, s, z)\nt = QLinearMatMul(q, s, z, a, sa, za, s, z)\n"
        "u = QLinearMatMul(t, s, z, b, sb, zb, s, z)\ny = DequantizeLinear(u, s, z)",
        "6 a[1] sa[0] b[0]",
        inputs="float[2,5,3] x",
        **ACTIVATIONS,
        a=whole(3, 6),
        sa=scales(6),
        za=np.full(6, 7, np.int8),
        b=whole(6, 4),
        sb=HALF,
        zb=np.array(9, np.int8),
    ),
    case(
        "MatMulInteger",
        "t = MatMul(x, c)\nq = QuantizeLinear(t, s, z)\nm = MatMulInteger(q, a, z, za)\nr = Cast<to=1>(m)\n"
        "n = Mul(r, sa)\ny = MatMul(n, b)",
        "6 c[1] a[0]",
        "5 a[1] sa[0] b[0]",
        inputs="float[2,7,3] x",
        s=TENTH,
        z=np.array(130, np.uint8),
        c=(3, 6),
        a=whole(6, 5),
        za=np.full(5, 4, np.int8),
        sa=scales(5),
        b=(5, 4),
    ),
    case(
        "ConvInteger, its image quantised as it comes: that stays, what it makes goes",
        INTEGER + "m = ConvInteger(qx, a, zx, za)\nr = Cast<to=1>(m)\ny = Conv(r, b)",
        "6 a[0] b[1]",
        a=whole(6, 3, 1, 1, dtype=np.uint8),
        za=np.array(100, np.uint8),
        b=(4, 6, 1, 1),
    ),
    *(
        case(
            f"{text.partition('(')[0]} of what is not silent: its weight is, at its zero point",
            f"t = Conv(x, c)\nv = Exp(t)\nq = QuantizeLinear(v, s, z)\nm = {text}\n{after}",
            "6 c[0] a[1]",
            s=TENTH,
            z=np.array(3, np.int8),
            c=(6, 3, 1, 1),
            a=whole(4, 6, 1, 1),
            za=np.array(5, np.int8),
            **more,
        )
        for text, after, more in (
            ("QLinearConv(q, s, z, a, sa, za, s, z)", "y = DequantizeLinear(m, s, z)", {"sa": HALF}),
            ("ConvInteger(q, a, z, za)", "y = Cast<to=1>(m)", {}),
        )
    ),
    *(
        case(
            f"{text.partition('(')[0]} of what is not silent: its weight is, at its zero point",
            f"t = MatMul(x, c)\nv = Exp(t)\nq = QuantizeLinear(v, s, z)\nm = {text}\n{after}",
            "6 c[1] a[0]",
            inputs="float[2,5,3] x",
            s=TENTH,
            z=np.array(3, np.int8),
            c=(3, 6),
            a=whole(6, 4),
            za=np.array(5, np.int8),
            **more,
        )
        for text, after, more in (
            ("QLinearMatMul(q, s, z, a, sa, za, s, z)", "y = DequantizeLinear(m, s, z)", {"sa": HALF}),
            ("MatMulInteger(q, a, z, za)", "y = Cast<to=1>(m)", {}),
        )
    ),
    case(
        "ConvInteger without zero points",
        "t = Conv(x, c)\nq = QuantizeLinear(t, s, z)\nm = ConvInteger<pads=[1,1,1,1]>(q, a)\nr = Cast<to=1>(m)\n"
        "y = Conv(r, b)",
        "6 c[0] a[1]",
        "5 a[0] b[1]",
        s=TENTH,
        z=np.array(0, np.uint8),
        c=(6, 3, 1, 1),
        a=whole(5, 6, 3, 3, dtype=np.uint8),
        b=(4, 5, 1, 1),
    ),
]
# onnxruntime wants one zero point for all filters: what the rule says is looked at, and nothing is run.
NOT_RUN = [
    case(
        "ConvInteger, a zero point for each filter",
        "q = QuantizeLinear(x, s, z)\nm = ConvInteger(q, a, z, za)\nr = Cast<to=1>(m)\ny = Conv(r, b)",
        "5 a[0] b[1]",
        s=TENTH,
        z=np.array(130, np.uint8),
        a=whole(5, 3, 3, 3, dtype=np.uint8),
        za=np.full(5, 100, np.uint8),
        b=(4, 5, 1, 1),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


def test_zero_points_are_known_where_all_readers_agree() -> None:
    body = (
        "v = DequantizeLinear(a, s, z)\nw = DequantizeLinear(a, s)\nt = MatMul(x, v)\nu = MatMul(x, w)\n"
        "k = DequantizeLinear(b, s, z)\nr = MatMul(x, k)\np = Add(t, u)\ny = Add(p, r)"
    )
    given = {"a": whole(3, 4), "b": whole(3, 4), "s": TENTH, "z": np.array(3, np.int8)}
    assert zero_points(load(net(body, inputs="float[5,3] x", **given))) == {"b": 3}


def test_pins_say_why() -> None:
    body = "t = Conv(x, a)\nq, s, z = DynamicQuantizeLinear(t)\ny = DequantizeLinear(q, s, z)"
    why = {str(p.dim): p.why for p in analyse(load(net(body, a=(6, 3, 1, 1)))).pinned}
    assert why["t[1]"] == why["a[0]"] == "DynamicQuantizeLinear scales by the largest of all values"
