"""The law on tiny nets with operators that move data."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import RULES, Call, Counting, Operand, Tie
from tests.law import Case, among, between, case, check, halves, net

DEFAULT = "6 a[0] c[0] b[1]"


def ints(*values: int, dtype: type = np.int64) -> np.ndarray:
    return np.array(values, dtype)


CONCAT = [
    case(
        "Concat of channels",
        "t = Conv(x, a)\ns = Conv(x, d)\nu = Concat<axis=1>(t, s)\ny = Conv(u, b)",
        "6 a[0] b[1]",
        "5 d[0] b[1]",
        a=(6, 3, 1, 1),
        d=(5, 3, 1, 1),
        b=(4, 11, 1, 1),
    ),
    case(
        "Concat, negative axis, the input pinned",
        "t = Conv(x, a)\nu = Concat<axis=-3>(x, t)\ny = Conv(u, b)",
        "6 a[0] b[1]",
        a=(6, 3, 1, 1),
        b=(4, 9, 1, 1),
    ),
    between(
        "Concat along another axis", "s = Conv(x, d)\nu = Concat<axis=2>(t, s)", "6 a[0] c[0] d[0] b[1]", d=(6, 3, 1, 1)
    ),
    between("Concat of a tensor with itself", "u = Concat<axis=1>(t, t)", "6 a[0] c[0] b[1]*2", b=(4, 12, 1, 1)),
    between(
        "Concat with a constant",
        "u = Concat<axis=1>(t, k)",
        "6 a[0] c[0] b[1]",
        "2 k[1] b[1]",
        k=(1, 2, 8, 8),
        b=(4, 8, 1, 1),
    ),
]
SPLIT = [
    between(
        "Split, sizes as input",
        "p, q = Split<axis=1>(t, s)\ny0 = Conv(p, d)\nu = Relu(q)",
        "2 a[0] c[0] d[1]",
        "4 a[0] c[0] b[1]",
        outputs="y y0",
        s=ints(2, 4),
        d=(4, 2, 1, 1),
        b=(4, 4, 1, 1),
    ),
    between(
        "Split, even, opset 13, negative axis: halves that meet again are tied",
        "p, q = Split<axis=-3>(t)\nu = Add(p, q)",
        "3 a[0]*2 c[0]*2 b[1]",
        b=(4, 3, 1, 1),
    ),
    between(
        "Split, even, opset 18, num_outputs that does not divide",
        "p, q, r = Split<axis=1, num_outputs=3>(t)\nu = Add(p, q)\nw0 = Conv(r, d)",
        "3 a[0]*2 c[0]*2 b[1]",
        "2 a[0] c[0] d[1]",
        outputs="y w0",
        opset=18,
        a=(8, 3, 1, 1),
        c=(8,),
        d=(4, 2, 1, 1),
        b=(4, 3, 1, 1),
    ),
    between(
        "Split, sizes as attribute, opset 9",
        "p, q = Split<axis=1, split=[2,4]>(t)\nu = Concat<axis=1>(q, p)",
        "2 a[0] c[0] b[1]",
        "4 a[0] c[0] b[1]",
        opset=9,
    ),
    between(
        "Split, even, opset 9",
        "p, q = Split<axis=1>(t)\nu = Mul(p, q)",
        "3 a[0]*2 c[0]*2 b[1]",
        opset=9,
        b=(4, 3, 1, 1),
    ),
    between(
        "Split, even, opset 13",
        "p, q = Split<axis=1>(t)\nu = Mul(p, q)",
        "3 a[0]*2 c[0]*2 b[1]",
        opset=13,
        b=(4, 3, 1, 1),
    ),
    case(
        "Split along the first axis where none is named",
        "t = MatMul(a, x)\np, q = Split(t)\ny0 = MatMul(b, p)\ny = MatMul(d, q)",
        "3 a[0] b[1]",
        "3 a[0] d[1]",
        inputs="float[3,5] x",
        outputs="y y0",
        a=(6, 3),
        b=(4, 3),
        d=(4, 3),
    ),
    between(
        "Split along another axis",
        "p, q = Split<axis=2>(t)\nu = Add(p, q)",
    ),
    between(
        "Split, sizes as input, of which the first part is not read",
        "p, q = Split<axis=1>(t, s)\nu = Relu(q)",
        "2 a[0] c[0]",
        "4 a[0] c[0] b[1]",
        s=ints(2, 4),
        b=(4, 4, 1, 1),
    ),
    between(
        "Split of which one part is not read",
        "p, q = Split<axis=1>(t)\nu = Relu(q)",
        "3 a[0] c[0]",
        "3 a[0] c[0] b[1]",
        b=(4, 3, 1, 1),
    ),
]
SLICE = [
    between(
        "Slice of channels",
        "u = Slice(t, s, e, k)",
        "3 a[0] c[0]",
        "3 a[0] c[0] b[1]",
        s=ints(2),
        e=ints(5),
        k=ints(1),
        b=(4, 3, 1, 1),
    ),
    between(
        "Slice with negative bounds and axis, int32",
        "u = Slice(t, s, e, k)",
        "3 a[0] c[0]",
        "3 a[0] c[0] b[1]",
        s=ints(-4, dtype=np.int32),
        e=ints(-1, dtype=np.int32),
        k=ints(-3, dtype=np.int32),
        b=(4, 3, 1, 1),
    ),
    between(
        "Slice to the end of everything, steps given",
        "u = Slice(t, s, e, k, p)",
        "2 a[0] c[0]",
        "4 a[0] c[0] b[1]",
        s=ints(0, 2, 1),
        e=ints(9999, np.iinfo(np.int64).max, 7),
        k=ints(0, 1, 3),
        p=ints(1, 1, 2),
        b=(4, 4, 1, 1),
    ),
    between(
        "Slice without axes",
        "u = Slice(t, s, e)",
        "3 a[0] c[0]",
        "3 a[0] c[0] b[1]",
        s=ints(0, 3),
        e=ints(1, 6),
        b=(4, 3, 1, 1),
    ),
    between(
        "Slice, opset 9",
        "u = Slice<starts=[1], ends=[-1], axes=[1]>(t)",
        "2 a[0] c[0]",
        "4 a[0] c[0] b[1]",
        opset=9,
        b=(4, 4, 1, 1),
    ),
    between(
        "Slice with a step",
        "u = Slice(t, s, e, k, p)",
        "3 a[0] c[0] b[1]",
        "3 a[0] c[0]",
        s=ints(0),
        e=ints(6),
        k=ints(1),
        p=ints(2),
        b=(4, 3, 1, 1),
    ),
    between(
        "Slice of every third channel from the second on, opset 10",
        "u = Slice(t, s, e, k, p)",
        "3 a[0] c[0]",
        "2 a[0] c[0] b[1]",
        opset=10,
        s=ints(1),
        e=ints(99),
        k=ints(-3),
        p=ints(3),
        a=(5, 3, 1, 1),
        c=(5,),
        b=(4, 2, 1, 1),
    ),
    between("Slice that reverses", "u = Slice(t, s, e, k, p)", s=ints(-1), e=ints(-99), k=ints(1), p=ints(-1)),
    between(
        "Slice that reverses and ends early",
        "u = Slice(t, s, e, k, p)",
        "4 a[0] c[0]",
        "2 a[0] c[0] b[1]",
        s=ints(99),
        e=ints(1),
        k=ints(1),
        p=ints(-2),
        b=(4, 2, 1, 1),
    ),
    between(
        "Slice with a step and of another axis stays",
        "u = Slice(t, s, e, k, p)",
        s=ints(0, 0),
        e=ints(6, 4),
        k=ints(1, 2),
        p=ints(2, 1),
        b=(4, 3, 1, 1),
        pinned=True,
    ),
    between(
        "Slice of another axis with a step", "u = Slice(t, s, e, k, p)", s=ints(0), e=ints(9), k=ints(3), p=ints(2)
    ),
    between(
        "Slice of another, symbolic axis to its end",
        "u = Slice(t, s, e, k)",
        inputs="float[N,3,H,8] x",
        s=ints(1),
        e=ints(np.iinfo(np.int64).max),
        k=ints(2),
    ),
    between(
        "Slice of another axis by computed bounds",
        "n = Shape(x)\nh = Slice(n, s, e)\nu = Slice(t, z, h, s)",
        inputs="float[1,3,H,8] x",
        s=ints(2),
        e=ints(3),
        z=ints(1),
    ),
    between(
        "Slice of the channels by computed bounds stays",
        "n = Shape(x)\nh = Slice(n, s, e)\nu = Slice(t, z, h, s)",
        pinned=True,
        s=ints(1),
        e=ints(2),
        z=ints(1),
        b=(4, 2, 1, 1),
    ),
    between(
        "Slice of the channels by computed steps stays",
        "n = Shape(x)\nh = Slice(n, z, o)\nu = Slice(t, z, e, o, h)",
        pinned=True,
        z=ints(0),
        o=ints(1),
        e=ints(99),
    ),
    between(
        "Slice of two halves that are multiplied",
        "p = Slice(t, s, m, k)\nq = Slice(t, m, e, k)\nu = Mul(p, q)",
        "3 a[0]*2 c[0]*2 b[1]",
        s=ints(0),
        m=ints(3),
        e=ints(6),
        k=ints(1),
        b=(4, 3, 1, 1),
    ),
]
TRANSPOSE = [
    between(
        "Transpose to the other layout and back",
        "v = Transpose<perm=[0,2,3,1]>(t)\nw0 = Relu(v)\nu = Transpose<perm=[0,3,1,2]>(w0)",
    ),
    between(
        "Transpose into a product",
        "v = Transpose<perm=[0,2,3,1]>(t)\ny = MatMul(v, w)",
        "6 a[0] c[0] w[0]",
        w=(6, 4),
        bare=True,
    ),
    between("Transpose without a permutation", "v = Transpose(t)\ns = Transpose(v)\nu = Relu(s)"),
    between(
        "Squeeze, axes as input",
        "g = GlobalAveragePool(t)\nf = Squeeze(g, k)\ny = Gemm(f, w)",
        "6 a[0] c[0] w[0]",
        k=ints(2, 3),
        w=(6, 4),
        bare=True,
    ),
    between(
        "Squeeze, axes as attribute",
        "g = GlobalAveragePool(t)\nf = Squeeze<axes=[-1,-2]>(g)\ny = Gemm(f, w)",
        "6 a[0] c[0] w[0]",
        opset=11,
        w=(6, 4),
        bare=True,
    ),
    between(
        "Squeeze of all axes of size 1",
        "g = GlobalAveragePool(t)\nf = Squeeze(g)\nz = MatMul(f, v)",
        "6 a[0] c[0] v[0]",
        v=(6, 4),
        outputs="z",
        bare=True,
    ),
    between(
        "Squeeze of all axes of size 1, opset 9",
        "g = GlobalAveragePool(t)\nf = Squeeze(g)\nz = MatMul(f, v)",
        "6 a[0] c[0] v[0]",
        opset=9,
        v=(6, 4),
        outputs="z",
        bare=True,
    ),
    between(
        "Squeeze of all axes of size 1, opset 13",
        "g = GlobalAveragePool(t)\nf = Squeeze(g)\nz = MatMul(f, v)",
        "2 a[0] c[0] v[0]",
        opset=13,
        a=(2, 3, 1, 1),
        c=(2,),
        v=(2, 4),
        outputs="z",
        bare=True,
    ),
    between("Unsqueeze, axes as input", "v = Unsqueeze(t, k)\nu = Squeeze(v, k)", k=ints(1)),
    between("Unsqueeze, axes as attribute", "v = Unsqueeze<axes=[1,-1]>(t)\nu = Squeeze<axes=[1,-1]>(v)", opset=11),
    among("Unsqueeze of a constant", "k2 = Unsqueeze(k, z)\nu = Mul(t, k2)", "6 a[1] k[0] b[0]", k=(6,), z=ints(0, 1)),
]
PAD = [
    between("Slice, opset 9, of the first axes", "u = Slice<starts=[0], ends=[1]>(t)", opset=9),
    case(
        "Gather of rows by negative numbers, first axis unless said otherwise",
        "t = MatMul(a, x)\nu = Gather(t, i)\ny = MatMul(b, u)",
        "6 a[0] b[1]",
        inputs="float[3,5] x",
        a=(6, 3),
        b=(4, 6),
        i=ints(-1, -2, -3, 2, 1, 0),
    ),
    between("Pad of the image", "u = Pad(t, p)", p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    between("Pad by another value", "u = Pad(t, p, v)", p=ints(0, 0, 1, 1, 0, 0, 1, 1), v=np.array(0.5, np.float32)),
    *(
        case(
            f"Pad by {what}, and all summed up",
            f"t = Conv(x, a)\n{pad}\ny = ReduceSum(u)",
            *groups,
            a=(6, 3, 1, 1),
            **more,
        )
        for what, pad, groups, more in [
            ("zeros", "u = Pad(t, p)", ["6 a[0]"], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
            (
                "a zero",
                "u = Pad(t, p, v)",
                ["6 a[0]"],
                {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.array(0, np.float32)},
            ),
            ("ones", "u = Pad(t, p, v)", [], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.array(1, np.float32)}),
            (
                "what is computed",
                "v = ReduceMax<keepdims=0>(x)\nu = Pad(t, p, v)",
                [],
                {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
            ),
            ("zeros, opset 9", "u = Pad<pads=[0,0,1,1,0,0,1,1]>(t)", ["6 a[0]"], {"opset": 9}),
            ("ones, opset 9", "u = Pad<pads=[0,0,1,1,0,0,1,1], value=1.0>(t)", [], {"opset": 9}),
        ]
    ),
    between("Pad, opset 9", "u = Pad<pads=[0,0,1,1,0,0,1,1]>(t)", opset=9),
    between("Pad by reflection", 'u = Pad<mode="reflect">(t, p)', p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    between("Pad that crops the image", "u = Pad(t, p)", p=ints(0, 0, -1, 0, 0, 0, 0, -1)),
    between("Pad, axes as input", "u = Pad(t, p, , k)", opset=18, p=ints(1, 2, 3, 4), k=ints(-1, 2)),
    between(
        "Pad of channels: a shortcut without weights, option A of He et al. 2016",
        "s = MaxPool<kernel_shape=[1,1]>(t)\nq = Pad(s, p)\nr = Conv(t, d)\nu = Add(q, r)",
        "6 a[0] c[0] d[0] d[1] b[1]",
        "2 d[0] b[1]",
        p=ints(0, 2, 0, 0, 0, 0, 0, 0),
        d=(8, 6, 1, 1),
        b=(4, 8, 1, 1),
    ),
    between(
        "Pad of channels on both sides, axes as input",
        "q = Pad(t, p, , k)\nr = Conv(t, d)\nu = Add(q, r)",
        "6 a[0] c[0] d[0] d[1] b[1]",
        "5 d[0] b[1]",
        opset=18,
        p=ints(2, 3),
        k=ints(-3),
        d=(11, 6, 1, 1),
        b=(4, 11, 1, 1),
    ),
    between(
        "Pad of channels by reflection stays",
        'u = Pad<mode="reflect">(t, p)',
        p=ints(0, 1, 0, 0, 0, 1, 0, 0),
        b=(4, 8, 1, 1),
        pinned=True,
    ),
    between(
        "Pad that crops channels",
        "u = Pad(t, p)",
        "2 a[0] c[0]",
        "4 a[0] c[0] b[1]",
        p=ints(0, -1, 0, 0, 0, -1, 0, 0),
        b=(4, 4, 1, 1),
    ),
    between(
        "Pad that crops the first channels and adds behind the last",
        "u = Pad(t, p)",
        "2 a[0] c[0]",
        "4 a[0] c[0] b[1]",
        "3 b[1]",
        p=ints(0, -2, 0, 0, 0, 3, 0, 0),
        b=(4, 7, 1, 1),
    ),
    between(
        "Pad of channels by reflection, to a smaller size, stays",
        'u = Pad<mode="reflect">(t, p)',
        p=ints(0, -1, 0, 0, 0, 0, 0, 0),
        b=(4, 5, 1, 1),
        pinned=True,
    ),
]
GATHER = [
    between("Gather that permutes channels", "u = Gather<axis=1>(t, k)", k=ints(5, 3, 1, 0, 2, 4)),
    case(
        "Gather of rows, which is what no axis means",
        "t = MatMul(a, x)\nu = Gather(t, k)\ny = MatMul(b, u)",
        "6 a[0] b[1]",
        inputs="float[3,5] x",
        a=(6, 3),
        k=ints(5, 3, 1, 0, 2, 4),
        b=(4, 6),
    ),
    between(
        "Gather that permutes channels by negative numbers",
        "u = Gather<axis=-3>(t, k)",
        k=ints(-1, 3, 1, 0, 2, -2, dtype=np.int32),
    ),
    between(
        "Gather of some channels",
        "u = Gather<axis=1>(t, k)",
        "4 a[0] c[0] b[1]",
        "2 a[0] c[0]",
        k=ints(5, 1, 0, 3),
        b=(4, 4, 1, 1),
    ),
    between(
        "Gather of a channel twice stays", "u = Gather<axis=1>(t, k)", k=ints(5, 5, 0, 3), b=(4, 4, 1, 1), pinned=True
    ),
    between("Gather along another axis", "u = Gather<axis=2>(t, k)", k=ints(5, 5, 0)),
    between(
        "Gather by a table along another axis",
        "v = Gather<axis=2>(t, k)\nu = ReduceMax<axes=[2], keepdims=0>(v)",
        k=ints(5, 5, 0, 1).reshape(2, 2),
    ),
    among("Gather of one row", "v = Gather<axis=1>(t, k)\nu = Relu(v)", k=np.array(2, np.int64)),
    case(
        "Gather from a table of embeddings: its rows stay, its columns go",
        "e = Gather(w, x)\nt = Relu(e)\ny = MatMul(t, b)",
        "6 w[1] b[0]",
        inputs="int64[2,5] x",
        w=(11, 6),
        b=(6, 4),
    ),
]
CASES = [*CONCAT, *SPLIT, *SLICE, *TRANSPOSE, *PAD, *GATHER]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


X, COMPUTED = Operand("x", (4, 6)), Operand("k", (2,))
GIVEN = Operand("g", (2,), gs.Constant("g", np.array([1, 3])))


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "ties"),
    [
        ("Split", (X, COMPUTED), [(2, 6), (2, 6)], {"x[1] y0[1]", "x[1] y1[1]"}),
        ("Slice", (X, GIVEN, GIVEN, COMPUTED), [(4, 6)], set()),
        ("Pad", (X, GIVEN, None, COMPUTED), [(8, 6)], set()),
    ],
)
def test_axes_and_sizes_that_are_computed_at_run_time_hold(
    operator: str, inputs: tuple[Operand, ...], outputs: list[tuple[int, ...]], ties: set[str]
) -> None:
    """Called, since the shape of what comes out is not known then, so that no rule is asked."""
    made = tuple(Operand(f"y{k}", shape) for k, shape in enumerate(outputs))
    said = RULES[operator].ties(Call(operator, "", inputs, made, {}, 18))
    assert {f"{tie.a} {tie.b}" for tie in said if isinstance(tie, Tie)} == ties


def test_pins_say_why() -> None:
    body = "t = Conv(x, a)\nu = Slice(t, s, e, k, p)\ny = Conv(u, b)"
    bounds = {"s": ints(0, 0), "e": ints(6, 4), "k": ints(1, 2), "p": ints(2, 1)}
    model = load(net(body, a=(6, 3, 1, 1), b=(4, 3, 1, 1), **bounds))
    assert {str(p.dim): (p.node, p.op, p.why) for p in analyse(model).pinned}["a[0]"] == (
        "u",
        "Slice",
        "sliced with step 2, and by other axes too",
    )


@pytest.mark.parametrize("body", ["p, q = Split<axis=2>(t)\nu = Add(p, q)", "s = Squeeze(t)\nu = Unsqueeze(s, k)"])
def test_what_says_nothing_of_the_axis_that_is_cut_stays_as_it_is(body: str) -> None:
    model = load(net(f"t = Conv(x, a)\n{body}\ny = Conv(u, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1), k=ints(0)))
    groups = analyse(model).groups
    small = cut(model, gone(groups, halves(groups)))
    assert small.constants["b"].shape == (4, 3, 1, 1)
    assert [len(node.inputs) for node in small.graph.nodes if node.op in ("Split", "Squeeze")] == [1]


def test_numbers_that_are_computed_count_on_the_axis_that_is_gathered_from() -> None:
    x = Operand("x", (8, 6))
    call = Call("Gather", "g", (x, Operand("i", (2,))), (Operand("y", (8, 2)),), {"axis": 1}, 17)
    assert RULES["Gather"].counts(call) == Counting(1, (x.dim(1),))
