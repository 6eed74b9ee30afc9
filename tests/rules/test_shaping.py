"""The law on tiny nets with operators that follow a list of sizes."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.proof import Runner
from graphprune.rules import RULES, Call, Operand, Pin
from graphprune.rules.shaping import _runs
from tests.law import Case, among, between, case, check, halves, net


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


RESHAPE = [
    between(
        "Flatten",
        "f = Flatten(t)\nu = Gemm(f, w)\ny = Relu(u)",
        "6 a[0] c[0] w[0]*64",
        w=(384, 4),
        bare=True,
    ),
    between(
        "Flatten of a batch",
        "f = Flatten(t)\nu = Gemm<transB=1>(f, w)\ny = Relu(u)",
        "6 a[0] c[0] w[1]*64",
        inputs="float[2,3,8,8] x",
        w=(4, 384),
        bare=True,
    ),
    between(
        "Flatten, negative axis",
        "f = Flatten<axis=-3>(t)\ny = Gemm(f, w)",
        "6 a[0] c[0] w[0]*64",
        w=(384, 4),
        bare=True,
    ),
    between(
        "Flatten before the channel: it is merged into the batch and stays",
        "f = Flatten<axis=2>(t)\ny = MatMul(f, w)",
        w=(64, 4),
        pinned=True,
        bare=True,
    ),
    between(
        "Reshape, merged, 0 and -1",
        "f = Reshape(t, s)\ny = Gemm(f, w)",
        "6 a[0] c[0] w[0]*64",
        s=ints(0, -1),
        w=(384, 4),
        bare=True,
    ),
    between(
        "Reshape, merged, -1 and the size",
        "f = Reshape(t, s)\ny = Gemm(f, w)",
        "6 a[0] c[0] w[0]*64",
        s=ints(-1, 384),
        w=(384, 4),
        inputs="float[N,3,8,8] x",
        bare=True,
    ),
    between(
        "Reshape of the image to a sequence",
        "u0 = Reshape(t, s)\nv = Transpose<perm=[0,2,1]>(u0)\ny = MatMul(v, w)",
        "6 a[0] c[0] w[0]",
        s=ints(0, 0, -1),
        w=(6, 4),
        bare=True,
    ),
    between(
        "Reshape there and back",
        "v = Reshape(t, s)\nw0 = Relu(v)\nu = Reshape(w0, r)",
        s=ints(0, 6, -1),
        r=ints(0, -1, 8, 8),
    ),
    between(
        "Reshape, allowzero", "v = Reshape<allowzero=1>(t, s)\nu = Reshape(v, r)", s=ints(1, 6, 64), r=ints(1, 6, 8, 8)
    ),
    between(
        "Reshape by 0 where the channel was",
        "v = Reshape(t, s)\nu = Reshape(v, r)",
        s=ints(0, 0, 64),
        r=ints(0, 0, 8, 8),
    ),
    between(
        "Reshape that splits the channels: whole blocks go",
        "v = Reshape(t, s)\nw0 = ReduceMax<axes=[2]>(v)\nu = Squeeze(w0, k)",
        "3 a[0]*2 c[0]*2 b[1]",
        s=ints(0, 3, 2, 8, 8),
        k=ints(2),
        b=(4, 3, 1, 1),
    ),
    between(
        "Reshape that splits and merges again",
        "v = Reshape(t, s)\nw0 = Relu(v)\nu = Reshape(w0, r)",
        "3 a[0]*2 c[0]*2 b[1]*2",
        s=ints(0, 3, 2, 64),
        r=ints(0, 6, 8, 8),
    ),
    among(
        "Reshape into heads and back",
        "h = Reshape(t, s)\ng = Relu(h)\nu = Reshape(g, r)",
        "3 a[1]*2 b[0]*2",
        s=ints(0, 0, 3, 2),
        r=ints(0, 0, -1),
    ),
    between(
        "Reshape into groups and back, as torch normalises them: whole groups go",
        "v = Reshape(t, s)\nw0 = InstanceNormalization(v, one, zero)\nz = Reshape(w0, r)\nm = Mul(z, g)\nu = Add(m, o)",
        "3 a[0]*2 c[0]*2 one[0] zero[0] g[0]*2 o[0]*2 b[1]*2",
        s=ints(0, 3, -1),
        r=ints(0, -1, 8, 8),
        one=np.ones(3, np.float32),
        zero=np.zeros(3, np.float32),
        g=(6, 1, 1),
        o=(6, 1, 1),
    ),
    between(
        "Reshape of several axes into several, the inner ones alike",
        "p = Transpose<perm=[0,2,3,1]>(t)\nv = Reshape(p, s)\nw0 = Softmax<axis=2>(v)\nz = Reshape(w0, r)\n"
        "u = Transpose<perm=[0,3,1,2]>(z)",
        "3 a[0]*2 c[0]*2 b[1]*2",
        s=ints(1, 2, 64, 3),
        r=ints(1, 8, 8, 6),
    ),
    between(
        "Reshape that mixes axes",
        "v = Reshape(t, s)\nw0 = Relu(v)\nu = Reshape(w0, r)",
        s=ints(1, 4, 96),
        r=ints(1, 6, 8, 8),
        pinned=True,
    ),
    case(
        "Reshape by 0 for an axis that stays, where the one of x is cut",
        "t = MatMul(x, a)\nv = Reshape(t, s)\nu = Relu(v)\ny = MatMul(u, b)",
        "2 a[1]*2 b[0]",
        s=ints(2, 0, -1),
        inputs="float[4,3] x",
        a=(3, 4),
        b=(2, 5),
    ),
    case(
        "Reshape to a target made from the image's own shape",
        "t = Conv(x, a)\ns = Shape(x)\nu = Conv(t, d)\nr = Reshape(u, s)\ny = Conv(r, b)",
        "6 a[0] d[1]",
        a=(6, 3, 1, 1),
        d=(3, 6, 1, 1),
        b=(4, 3, 1, 1),
        inputs="float[1,3,H,8] x",
    ),
]
# Sizes that come from the input at run time, and what stands after them.
_LEADING = "d = Shape<end=2>(x)\ng = Concat<axis=0>(d, m)\n"
_EIGHT = {"inputs": "float[N,S,3] x", "a": (3, 8), "h": ints(0, 0, 4, 2), "o": (8, 5)}
RUN_TIME = [
    case(
        "Reshape of heads into -1, behind sizes known at run time",
        f"{_LEADING}t = MatMul(x, a)\nv = Reshape(t, h)\nw = Relu(v)\nu = Reshape(w, g)\ny = MatMul(u, o)",
        "8 a[1] o[0]",
        m=ints(-1),
        **{**_EIGHT, "h": ints(0, 0, 8, 1)},
    ),
    case(
        "Reshape of a width into -1 heads, behind sizes known at run time",
        f"{_LEADING}t = MatMul(x, a)\nv = Reshape(t, g)\nw = Relu(v)\nu = Reshape(w, h)\ny = MatMul(u, o)",
        "4 a[1]*2 o[0]*2",
        m=ints(-1, 2),
        **{**_EIGHT, "h": ints(0, 0, -1)},
    ),
    case(
        "Reshape of whole heads into -1, behind sizes known at run time",
        f"{_LEADING}t = MatMul(x, a)\nv = Reshape(t, h)\nw = Softmax(v)\nu = Reshape(w, g)\ny = MatMul(u, o)",
        "4 a[1]*2 o[0]*2",
        m=ints(-1),
        **_EIGHT,
    ),
    case(
        "Reshape into a size that is spelled out behind sizes known at run time",
        f"{_LEADING}t = MatMul(x, a)\nv = Reshape(t, h)\nw = Relu(v)\nu = Reshape(w, g)\ny = MatMul(u, o)",
        "4 a[1]*2 o[0]*2",
        m=ints(8),
        **_EIGHT,
    ),
]
# Keys of two groups, each for three query heads, of four numbers each; the copies are made at run time.
_GROUPED = """
    d = Shape<end=2>(x)
    q = MatMul(x, a)
    q4 = Reshape(q, qs)
    qt = Transpose<perm=[0,2,1,3]>(q4)
    k = MatMul(x, b)
    k4 = Reshape(k, ks)
    kt = Transpose<perm=[0,2,3,1]>(k4)
    k5 = Unsqueeze(kt, two)
    {copies}
    kr = Reshape(ke, rs)
    s = MatMul(qt, kr)
    p = Softmax(s)
    v = MatMul(x, c)
    v4 = Reshape(v, ks)
    vt = Transpose<perm=[0,2,1,3]>(v4)
    v5 = Unsqueeze(vt, two)
    ve = Expand(v5, three)
    vr = Reshape(ve, ws)
    o = MatMul(p, vr)
    ot = Transpose<perm=[0,2,1,3]>(o)
    of = Reshape(ot, flat)
    y = MatMul(of, w)
"""
_HEADS = {
    "inputs": "float[2,5,3] x",
    "a": (3, 24),
    "b": (3, 8),
    "c": (3, 8),
    "w": (24, 7),
    "qs": ints(0, 0, 6, 4),
    "ks": ints(0, 0, 2, 4),
    "rs": ints(2, 6, 4, 5),
    "ws": ints(2, 6, 5, 4),
    "flat": ints(0, 0, 24),
    "two": ints(2),
    "three": ints(3, 1, 1),
}
EXPAND = [
    case(
        "Expand of grouped keys and values, sizes as constants",
        _GROUPED.format(copies="ke = Expand(k5, es)").replace("d = Shape<end=2>(x)", ""),
        "2 a[1]*12 b[1]*4 c[1]*4 w[0]*12",
        es=ints(2, 2, 3, 4, 5),
        **_HEADS,
    ),
    case(
        "Expand of grouped keys, sizes joined at run time",
        _GROUPED.format(copies="n, e = Split(d)\nes = Concat<axis=0>(n, sizes, e)\nke = Expand(k5, es)"),
        "2 a[1]*12 b[1]*4 c[1]*4 w[0]*12",
        sizes=ints(2, 3, 4),
        **_HEADS,
    ),
    between("Expand of a row to rows", "p0 = GlobalAveragePool(t)\nu = Expand(p0, s)", s=ints(6, 8, 8)),
    between(
        "Expand to a size that is computed at run time holds the axis",
        "d = Shape(t)\nu = Expand(t, d)",
        pinned=True,
    ),
    among("Expand that adds an axis", "v = Expand(t, s)\nu = Squeeze(v, k)", s=ints(1, 2, 5, 6), k=ints(0)),
    case(
        "Expand makes the columns itself",
        "v = Expand(x, s)\nt = Mul(v, a)\nu = Relu(t)\ny = MatMul(u, b)",
        "6 a[0] b[0]",
        inputs="float[2,5,1] x",
        s=ints(6),
        a=(6,),
        b=(6, 4),
    ),
]
TILE = [
    between("Tile of channels", "u = Tile(t, s)", "6 a[0] c[0] b[1]*2", s=ints(1, 2, 1, 1), b=(4, 12, 1, 1)),
    case(
        "Tile makes the columns itself",
        "v = Tile(x, s)\nt = Mul(v, a)\nu = Relu(t)\ny = MatMul(u, b)",
        "6 a[0] b[0]",
        inputs="float[2,5,1] x",
        s=ints(1, 1, 6),
        a=(6,),
        b=(6, 4),
    ),
    between(
        "Tile by numbers known at run time",
        "d = Shape<end=1>(x)\ng = Concat<axis=0>(d, s)\nu = Tile(t, g)",
        s=ints(1, 1, 2),
    ),
    between(
        "Tile of channels by a number known at run time holds them",
        "d = Shape<end=1>(x)\ng = Concat<axis=0>(d, d, s)\nu = Tile(t, g)",
        s=ints(1, 1),
        pinned=True,
    ),
]
FILLED = [
    case(
        "ConstantOfShape beside a product",
        "z = ConstantOfShape(s)\nt = MatMul(x, a)\nu = Concat<axis=1>(t, z)\nv = Add(u, e)\ny = MatMul(v, b)",
        "6 a[1] e[1] b[0]",
        "3 e[1] b[0]",
        inputs="float[5,3] x",
        s=ints(5, 3),
        a=(3, 6),
        e=(1, 9),
        b=(9, 4),
    ),
    among(
        "ConstantOfShape of zeros is silent, sizes joined at run time",
        "d = Shape<end=1>(x)\ng = Concat<axis=0>(d, rows, s)\nz = ConstantOfShape(g)\nv = Add(t, z)\n"
        "q = ReduceSum<keepdims=1>(v, k)\nu = Add(v, q)",
        rows=ints(5),
        s=ints(6),
        k=ints(-1),
    ),
    among(
        "ConstantOfShape of zeros that are written down is silent",
        "z = ConstantOfShape<value=float[1]{0}>(s)\nv = Add(t, z)\nq = ReduceSum<keepdims=1>(v, k)\nu = Add(v, q)",
        s=ints(6),
        k=ints(-1),
    ),
    among(
        "ConstantOfShape of ones is not silent",
        "z = ConstantOfShape<value=float[1]{1}>(s)\nv = Add(t, z)\nq = ReduceSum<keepdims=1>(v, k)\nu = Sub(v, q)",
        s=ints(6),
        k=ints(-1),
        pinned=True,
    ),
]
_OF_SIZE = "f = Cast<to=1>(n)\nu = Mul(t, f)"
_OF_SIZES = "f = Cast<to=1>(d)\nn = ReduceSum<keepdims=0>(f)\nu = Mul(t, n)"
SHAPE = [
    among("Shape of which the rows are asked for", f"d = Shape(t)\nn = Gather(d, i)\n{_OF_SIZE}", i=np.array(-2)),
    among(
        "Shape of which the columns are asked for",
        f"d = Shape(t)\nn = Gather(d, i)\n{_OF_SIZE}",
        i=np.array(2),
        pinned=True,
    ),
    among(
        "Shape of which the rows are sliced",
        f"d = Shape(t)\nm = Slice(d, i, j)\nn = ReduceSum<keepdims=0>(m)\n{_OF_SIZE}",
        i=ints(-3),
        j=ints(-1),
    ),
    among(
        "Shape of which the columns are sliced, from the back",
        f"d = Shape(t)\nm = Slice(d, i, j, k, l)\nn = ReduceSum<keepdims=0>(m)\n{_OF_SIZE}",
        i=ints(-1),
        j=ints(0),
        k=ints(0),
        l=ints(-2),
        pinned=True,
    ),
    among("Shape of leading axes, in another type", f"d = Shape<end=-1>(t)\n{_OF_SIZES}"),
    among("Shape of all axes", f"d = Shape(t)\n{_OF_SIZES}", pinned=True),
    case(
        "Shape that is an output",
        "t = MatMul(x, a)\nd = Shape(t)\ny = MatMul(t, b)",
        outputs="y d",
        inputs="float[2,5,3] x",
        a=(3, 6),
        b=(6, 4),
    ),
]
CASES = [*RESHAPE, *RUN_TIME, *EXPAND, *TILE, *FILLED, *SHAPE]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


def test_symbolic_sizes_survive_the_repair() -> None:
    """0 and -1 in a target keep their meaning, so that the cut model still takes any batch and height."""
    body = "t = Conv(x, a)\nv = Reshape(t, s)\nu = Relu(v)\ny = Conv(u, b)"
    model = load(net(body, inputs="float[N,3,H,8] x", a=(6, 3, 1, 1), s=ints(0, 6, -1, 8), b=(4, 6, 1, 1)))
    groups = analyse(model).groups
    small = cut(model, gone(groups, halves(groups)))
    assert [c.values.tolist() for c in small.constants.values() if c.dtype == np.int64] == [[0, 3, -1, 8]]
    out = Runner(small)({"x": np.zeros((5, 3, 7, 8), np.float32)})
    assert out["y"].shape == (5, 4, 7, 8)


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ((1, 6, 8, 8), (1, 384), [([1, 2, 3], [1])]),
        ((2, 6, 8, 8), (2, 384), [([0], [0]), ([1, 2, 3], [1])]),
        ((2, 12), (2, 3, 4), [([0], [0]), ([1], [1, 2])]),
        ((2, 6), (3, 4), [([0, 1], [0, 1])]),
        ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
        ((1, 1), (1,), []),
        ((4, 1, 5), (1, 4, 5), [([0], [1]), ([2], [2])]),
        ((8, 3, 5), (2, 4, 15), [([0], [0, 1]), ([1, 2], [2])]),
        ((0, 5), (0, 7), [([0], [0])]),
    ],
)
def test_runs(a: tuple[int, ...], b: tuple[int, ...], found: list[tuple[list[int], list[int]]]) -> None:
    assert list(_runs(a, b)) == found


@pytest.mark.parametrize(
    ("node", "sizes", "left"),
    [("Expand(t, s)", [2, 5, 6], [2, 5, 1]), ("Tile(t, s)", [2, 3, 1], [2, 3, 1])],
)
def test_sizes_of_axes_that_are_not_cut_stay_as_they_are(node: str, sizes: list[int], left: list[int]) -> None:
    body = f"t = MatMul(x, a)\nu = {node}\ny = MatMul(u, b)"
    model = load(net(body, inputs="float[1,5,3] x", a=(3, 6), b=(6, 4), s=ints(*sizes)))
    groups = analyse(model).groups
    small = cut(model, gone(groups, halves(groups)))
    ((name, after),) = [(n, c.values.tolist()) for n, c in small.constants.items() if c.dtype == np.int64]
    assert after == left
    assert (name == "s") == (sizes == left), "a list that stays is not written anew"


def test_a_target_of_unknown_length_holds_all_axes() -> None:
    x, y = Operand("x", (2, 3)), Operand("y", (2, 3))
    call = Call("Reshape", "reshape", (x, Operand("s", (2,))), (y,), {}, 17)
    assert [said.dim for said in RULES["Reshape"].ties(call) if isinstance(said, Pin)] == [y.dim(0), y.dim(1)]
