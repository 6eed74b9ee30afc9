"""The law on tiny nets with convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import load
from tests.law import Case, case, check, net

CASES = [
    case(
        "of two images, and transposed",
        "t = Conv(x, a)\nu = ConvTranspose(t, d)\ny = Conv(u, b)",
        "6 a[0] d[0]",
        "5 d[1] b[1]",
        inputs="float[2,3,8,8] x",
        a=(6, 3, 3, 3),
        d=(6, 5, 3, 3),
        b=(4, 5, 3, 3),
    ),
    case("plain", "t = Conv(x, a, c)\ny = Conv(t, b)", "6 a[0] c[0] b[1]", a=(6, 3, 3, 3), c=(6,), b=(4, 6, 3, 3)),
    case(
        "no bias, strides, dilations, pads",
        "t = Conv<strides=[2,2], pads=[1,1,1,1]>(x, a)\ny = Conv<dilations=[2,2], pads=[2,1,1,2]>(t, b)",
        "6 a[0] b[1]",
        a=(6, 3, 3, 3),
        b=(4, 6, 3, 3),
    ),
    case(
        "auto_pad",
        't = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, a)\ny = Conv<auto_pad="SAME_LOWER">(t, b)',
        "6 a[0] b[1]",
        inputs="float[1,3,7,7] x",
        a=(6, 3, 3, 3),
        b=(4, 6, 3, 3),
    ),
    case(
        "one-dimensional",
        "t = Conv(x, a, c)\ny = Conv(t, b)",
        "6 a[0] c[0] b[1]",
        inputs="float[2,3,9] x",
        a=(6, 3, 3),
        c=(6,),
        b=(4, 6, 3),
    ),
    case(
        "three-dimensional",
        "t = Conv(x, a, c)\ny = Conv(t, b)",
        "6 a[0] c[0] b[1]",
        inputs="float[1,3,5,5,5] x",
        a=(6, 3, 3, 3, 3),
        c=(6,),
        b=(4, 6, 3, 3, 3),
    ),
    case(
        "spatial sizes that equal the channels stay",
        "t = Conv(x, a)\ny = Conv(t, b)",
        "8 a[0] b[1]",
        a=(8, 3, 1, 1),
        b=(8, 8, 1, 1),
    ),
    case(
        "grouped: same offsets of each group",
        "t = Conv(x, a)\nu = Conv<group=2>(t, w, d)\ny = Conv(u, b)",
        "4 a[0]*2 w[1]",
        "3 w[0]*2 d[0]*2 b[1]*2",
        a=(8, 3, 1, 1),
        w=(6, 4, 3, 3),
        d=(6,),
        b=(4, 6, 1, 1),
    ),
    case(
        "grouped: whole groups where there are more of them",
        "t = Conv(x, a)\nu = Conv<group=4>(t, w, d)\nv = Relu(u)\ny = Conv(v, b)",
        "4 a[0]*2 w[0]*3 d[0]*3 b[1]*3",
        a=(8, 3, 1, 1),
        w=(12, 2, 3, 3),
        d=(12,),
        b=(4, 12, 1, 1),
    ),
    case(
        "grouped, read by the graph input's channels: the outputs go by offset",
        "t = Conv<group=2>(x, w)\ny = Conv(t, b)",
        "3 w[0]*2 b[1]*2",
        inputs="float[1,4,8,8] x",
        w=(6, 2, 3, 3),
        b=(4, 6, 1, 1),
    ),
    case(
        "grouped, with filters computed from outside: whole groups need no weight to be silent",
        "t = Conv(x, a)\nk = Sigmoid(i)\nq = Mul(k, w)\nu = Conv<group=4>(t, q)\ny = Conv(u, b)",
        "4 a[0]*2 w[0]*2 b[1]*2",
        inputs="float[1,3,8,8] x, float[1,1,1,1] i",
        a=(8, 3, 1, 1),
        w=(8, 2, 1, 1),
        b=(4, 8, 1, 1),
    ),
    case(
        "transposed, grouped: whole groups where there are more of them",
        "t = Conv(x, a)\nu = ConvTranspose<group=4>(t, w, d)\ny = Conv(u, b)",
        "4 a[0]*2 w[0]*2 d[0]*3 b[1]*3",
        a=(8, 3, 1, 1),
        w=(8, 3, 3, 3),
        d=(12,),
        b=(4, 12, 1, 1),
    ),
    case(
        "grouped after grouped, other number of groups",
        "t = Conv(x, a)\nu = Conv<group=2>(t, v)\nw0 = Conv<group=4>(u, w)\ny = Conv(w0, b)",
        "4 a[0]*2 v[1]",
        "2 v[0]*4 w[1]",
        "2 w[0]*4 b[1]*4",
        a=(8, 3, 1, 1),
        v=(8, 4, 1, 1),
        w=(8, 2, 1, 1),
        b=(4, 8, 1, 1),
    ),
    case(
        "depthwise",
        "t = Conv(x, a, c)\nu = Conv<group=6, pads=[1,1,1,1]>(t, w, d)\ny = Conv(u, b)",
        "6 a[0] c[0] w[0] d[0] b[1]",
        a=(6, 3, 1, 1),
        c=(6,),
        w=(6, 1, 3, 3),
        d=(6,),
        b=(4, 6, 1, 1),
    ),
    case(
        "depthwise with multiplier 2",
        "t = Conv(x, a, c)\nu = Conv<group=6>(t, w, d)\ny = Conv(u, b)",
        "6 a[0] c[0] w[0]*2 d[0]*2 b[1]*2",
        a=(6, 3, 1, 1),
        c=(6,),
        w=(12, 1, 3, 3),
        d=(12,),
        b=(4, 12, 1, 1),
    ),
    case(
        "depthwise over the graph input is pinned",
        "t = Conv<group=3>(x, w)\ny = Conv(t, b)",
        w=(6, 1, 3, 3),
        b=(4, 6, 1, 1),
    ),
    case(
        "one input channel is no depthwise convolution",
        "t = Conv<group=1>(x, a)\ny = Conv(t, b)",
        "6 a[0] b[1]",
        inputs="float[1,1,8,8] x",
        a=(6, 1, 3, 3),
        b=(4, 6, 1, 1),
    ),
    case(
        "shared weights tie both their readers",
        "t = Conv(x, a)\nu = Conv(t, w)\nv = Conv(u, w)\ny = Conv(v, b)",
        "6 a[0] w[0] w[1] b[1]",
        a=(6, 3, 1, 1),
        w=(6, 6, 1, 1),
        b=(4, 6, 1, 1),
    ),
    case(
        "a kernel computed from the image: its sum goes where the image is silent",
        "t = Conv(x, a)\nk0 = GlobalAveragePool(t)\nk = Sigmoid(k0)\nu = Conv(t, k)\ny = Conv(u, b)",
        "6 a[0]",
        inputs="float[1,3,8,8] x",
        a=(6, 3, 1, 1),
        b=(4, 1, 1, 1),
    ),
    case(
        "transposed",
        "t = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, a, c)\ny = ConvTranspose(t, b)",
        "6 a[1] c[0] b[0]",
        a=(3, 6, 3, 3),
        c=(6,),
        b=(6, 4, 2, 2),
    ),
    case(
        "transposed, grouped",
        "t = Conv(x, a)\nu = ConvTranspose<group=2>(t, w, d)\ny = Conv(u, b)",
        "4 a[0]*2 w[0]*2",
        "3 w[1] d[0]*2 b[1]*2",
        a=(8, 3, 1, 1),
        w=(8, 3, 3, 3),
        d=(6,),
        b=(4, 6, 1, 1),
    ),
    case(
        "transposed, depthwise with multiplier 2",
        "t = Conv(x, a)\nu = ConvTranspose<group=6, strides=[2,2]>(t, w, d)\ny = Conv(u, b)",
        "6 a[0] w[0] d[0]*2 b[1]*2",
        a=(6, 3, 1, 1),
        w=(6, 2, 3, 3),
        d=(12,),
        b=(4, 12, 1, 1),
    ),
    case(
        "deformed, with offsets of its own",
        "t = Conv(x, a)\no = Conv(x, e)\nu = DeformConv(t, w, o, d)\ny = Conv(u, b)",
        "6 a[0] w[1]",
        "5 w[0] d[0] b[1]",
        opset=19,
        a=(6, 3, 1, 1),
        e=(2, 3, 1, 1),
        w=(5, 6, 1, 1),
        d=(5,),
        b=(4, 5, 1, 1),
    ),
    case(
        "deformed, with offsets for two halves of the channels, and a mask",
        "t = Conv(x, a)\no = Conv(x, e)\nm = Conv(x, f)\nu = DeformConv<offset_group=2>(t, w, o, , m)\ny = Conv(u, b)",
        "3 a[0]*2 w[1]*2",
        "5 w[0] b[1]",
        opset=19,
        a=(6, 3, 1, 1),
        e=(4, 3, 1, 1),
        f=(2, 3, 1, 1),
        w=(5, 6, 1, 1),
        b=(4, 5, 1, 1),
    ),
    case(
        "deformed, in groups",
        "t = Conv(x, a)\no = Conv(x, e)\nu = DeformConv<group=4>(t, w, o, d)\ny = Conv(u, b)",
        "4 a[0]*2 w[0] d[0] b[1]",
        opset=19,
        a=(8, 3, 1, 1),
        e=(2, 3, 1, 1),
        w=(4, 2, 1, 1),
        d=(4,),
        b=(4, 4, 1, 1),
    ),
    case(
        "depthwise with two channels, of which one is left",
        "t = Conv(x, a)\nu = Conv<group=2>(t, w)\ny = Conv(u, b)",
        "2 a[0] w[0] b[1]",
        a=(2, 3, 1, 1),
        w=(2, 1, 3, 3),
        b=(4, 2, 1, 1),
    ),
    case(
        "transposed, depthwise with two channels, of which one is left",
        "t = Conv(x, a)\nu = ConvTranspose<group=2>(t, w)\ny = Conv(u, b)",
        "2 a[0] w[0] b[1]",
        a=(2, 3, 1, 1),
        w=(2, 1, 3, 3),
        b=(4, 2, 1, 1),
    ),
    case(
        "transposed, with a kernel that is not zero where the image is not either: its sum stays",
        """t = Conv(x, a)
        s = Sigmoid(t)
        k0 = GlobalAveragePool(s)
        k = Transpose<perm=[1,0,2,3]>(k0)
        u = ConvTranspose(s, k)
        y = Conv(u, b)""",
        inputs="float[1,3,8,8] x",
        a=(6, 3, 1, 1),
        b=(4, 1, 1, 1),
    ),
    case(
        "deformed, with a kernel that is not zero where the image is not either: its sum stays",
        """t = Conv(x, a)
        s = Sigmoid(t)
        k = GlobalAveragePool(s)
        o = Conv(x, e)
        u = DeformConv(s, k, o)
        y = Conv(u, b)""",
        opset=19,
        a=(6, 3, 1, 1),
        e=(2, 3, 1, 1),
        b=(4, 1, 1, 1),
    ),
    case(
        "transposed, one-dimensional",
        "t = ConvTranspose(x, a)\ny = Conv(t, b)",
        "6 a[1] b[1]",
        inputs="float[1,3,9] x",
        a=(3, 6, 3),
        b=(4, 6, 1),
    ),
]
# onnxruntime has no kernel for these: what their rules say is looked at, and nothing is run.
NOT_RUN = [
    case(
        "CausalConvWithState, its state handed on",
        "t = Conv(x, a)\nu, s = CausalConvWithState(t, w, c, p)\nv = Concat<axis=2>(s, u)\ny = Conv(v, b)",
        inputs="float[2,3,9] x",
        opset=27,
        a=(6, 3, 1),
        w=(6, 1, 4),
        c=(6,),
        p=(2, 6, 3),
        b=(4, 6, 1),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("body", "weights", "macs"),
    [
        ("y = Conv(x, a)", {"a": (6, 3, 3, 3)}, 6 * 6 * 6 * 3 * 9),
        ("y = Conv<group=3>(x, a)", {"a": (6, 1, 3, 3)}, 6 * 6 * 6 * 9),
        ("y = Conv<strides=[2,2]>(x, a)", {"a": (6, 3, 1, 1)}, 4 * 4 * 6 * 3),
        ("y = ConvTranspose<strides=[2,2]>(x, a)", {"a": (3, 6, 3, 3)}, 8 * 8 * 3 * 6 * 9),
    ],
)
def test_macs(body: str, weights: dict[str, tuple[int, ...]], macs: int) -> None:
    from graphprune.cost import CostModel

    assert CostModel(load(net(body, **weights))).at().macs == macs


def test_pins_name_the_computed_kernel() -> None:
    body = "t = Conv(x, a)\nk0 = GlobalAveragePool(t)\nk = Sigmoid(k0)\ns = Sigmoid(t)\nu = Conv(s, k)\ny = Conv(u, b)"
    dependencies = analyse(load(net(body, a=(6, 3, 1, 1), b=(4, 1, 1, 1))))
    why = {str(p.dim): p.why for p in dependencies.pinned}
    assert why["a[0]"] == "summed over, and not zero for certain once its weights are"
    assert np.all([not g.labels for g in dependencies.groups])
