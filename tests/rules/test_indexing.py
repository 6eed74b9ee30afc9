"""The law on tiny nets with operators that pick or place elements by index."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphprune.rules import RULES, Call, Counting, Operand
from tests.law import Case, among, between, case, check
from tests.rules.test_movement import ints

TENS = np.random.default_rng(0)

CASES = [
    between(
        "GatherElements along another axis",
        "u = GatherElements<axis=3>(t, k)",
        "6 a[0] c[0] b[1]",
        k=TENS.integers(0, 8, (1, 6, 8, 4)),
    ),
    between(
        "GatherElements that reads the first channels only",
        "u = GatherElements<axis=-2>(t, k)",
        "4 a[0] c[0] b[1]",
        "2 a[0] c[0]",
        k=TENS.integers(-8, 8, (1, 4, 5, 8)),
        b=(4, 4, 1, 1),
    ),
    between(
        "GatherElements along the channels",
        "u = GatherElements<axis=1>(t, k)",
        "5 b[1]",
        k=TENS.integers(0, 6, (1, 5, 8, 8)),
        b=(4, 5, 1, 1),
    ),
    between(
        "GatherElements of images, which is what no axis means",
        "u = GatherElements(t, k)",
        "6 a[0] c[0] b[1]",
        inputs="float[2,3,8,8] x",
        k=TENS.integers(0, 2, (3, 6, 8, 8)),
    ),
    between(
        "ScatterElements into images, which is what no axis means",
        "u = ScatterElements(t, k, w)",
        "6 a[0] c[0] w[1] b[1]",
        inputs="float[2,3,8,8] x",
        k=np.ones((1, 6, 8, 8), np.int64),
        w=(1, 6, 8, 8),
    ),
    between(
        "ScatterElements along another axis",
        "u = ScatterElements<axis=3>(t, k, w)",
        "6 a[0] c[0] w[1] b[1]",
        opset=18,
        k=np.broadcast_to(np.array([3, 1]), (1, 6, 8, 2)).copy(),
        w=(1, 6, 8, 2),
    ),
    between(
        "ScatterElements into the first channels only, adding",
        'u = ScatterElements<axis=2, reduction="add">(t, k, w)',
        "4 a[0] c[0] w[1] b[1]",
        "2 a[0] c[0] b[1]",
        opset=18,
        k=TENS.integers(0, 8, (1, 4, 3, 8)),
        w=(1, 4, 3, 8),
    ),
    between(
        "ScatterElements along the channels",
        "u = ScatterElements<axis=1>(t, k, w)",
        k=np.full((1, 1, 8, 8), 2),
        w=(1, 1, 8, 8),
        pinned=True,
    ),
    between(
        "Scatter, opset 10",
        "u = Scatter<axis=3>(t, k, w)",
        "6 a[0] c[0] w[1] b[1]",
        opset=10,
        k=np.broadcast_to(np.array([3, 1]), (1, 6, 8, 2)).copy(),
        w=(1, 6, 8, 2),
    ),
    among("GatherND of rows", "v = GatherND(t, k)\nu = Tanh(v)", k=ints(0, 1, 1, 4, 0, 0).reshape(3, 2)),
    among(
        "GatherND within each image",
        "u = GatherND<batch_dims=1>(t, k)",
        "6 a[1] b[0]",
        k=ints(1, 4, 0, 2, 3, 3).reshape(2, 3, 1),
    ),
    among(
        "GatherND of the channels too",
        "v = GatherND(t, k)\nu = Unsqueeze(v, z)",
        "3 b[0]",
        k=ints(0, 1, 1, 1, 4, 0, 0, 0, 5).reshape(3, 3),
        z=ints(0),
        b=(3, 4),
    ),
    between(
        "GatherND, channels for a batch",
        "p = Transpose<perm=[1,0,2,3]>(t)\nv = GatherND<batch_dims=1>(p, k)\nw0 = Unsqueeze(v, z)\n"
        "u = Transpose<perm=[1,0,2,3]>(w0)",
        "6 a[0] c[0] b[1]",
        k=np.zeros((6, 1), np.int64),
        z=ints(1),
        matters=True,
    ),
    among(
        "ScatterND of rows",
        "u = ScatterND(t, k, w)",
        "6 a[1] w[2] b[0]",
        k=ints(0, 1, 1, 4, 0, 0).reshape(1, 3, 2),
        w=(1, 3, 6),
    ),
    among(
        "ScatterND of single values",
        "u = ScatterND(t, k, w)",
        k=ints(0, 1, 5, 1, 4, 2).reshape(2, 3),
        w=(2,),
        pinned=True,
    ),
    between(
        "Compress of the channels by a constant",
        "u = Compress<axis=1>(t, k)",
        "3 a[0] c[0] b[1]",
        "3 a[0] c[0]",
        k=np.array([True, False, True, True, False, False]),
        b=(4, 3, 1, 1),
    ),
    between(
        "Compress of the first channels by a shorter constant, negative axis",
        "u = Compress<axis=-3>(t, k)",
        "2 a[0] c[0] b[1]",
        "3 a[0] c[0]",
        k=np.array([True, False, True]),
        b=(4, 2, 1, 1),
    ),
    between("Compress of another axis", "u = Compress<axis=2>(t, k)", k=np.array([True, False, True])),
    case(
        "OneHot of indices that a product picks: the axis it makes is weighed",
        "e = OneHot<axis=1>(x, d, v)\nt = MatMul(a, e)\nu = Relu(t)\ny = MatMul(b, u)",
        "6 a[0] b[1]",
        inputs="int64[2,5] x",
        a=(6, 7),
        d=np.array(7),
        v=np.array([0, 1], np.float32),
        b=(4, 6),
    ),
    case(
        "OneHot, whose axis is the last unless said otherwise",
        "e = OneHot(x, d, v)\nt = MatMul(e, a)\nu = Relu(t)\ny = MatMul(u, b)",
        "6 a[1] b[0]",
        inputs="int64[2,5] x",
        a=(7, 6),
        d=np.array(7),
        v=np.array([0, 1], np.float32),
        b=(6, 4),
    ),
    between(
        "OneHot around the channels",
        "m = ArgMax<axis=3, keepdims=0>(t)\nu = OneHot<axis=3>(m, d, v)",
        d=np.array(8),
        v=np.array([0, 1], np.float32),
    ),
    between(
        "OneHot in front of the channels",
        "m = ArgMax<axis=3, keepdims=0>(t)\nh = OneHot<axis=1>(m, d, v)\nu = Transpose<perm=[0,2,1,3]>(h)",
        d=np.array(8),
        v=np.array([0, 1], np.float32),
    ),
]
# onnxruntime has no kernel for this: what its rule says is looked at, and nothing is run.
NOT_RUN = [
    case(
        f"TensorScatter along {axis}",
        f"t = MatMul(x, a)\nu = TensorScatter<{axis}>(p, t, k)\ny = MatMul(u, b)",
        inputs="float[2,3,5,3] x",
        opset=24,
        a=(3, 6),
        p=(2, 9, 5, 6) if axis == "axis=1" else (2, 3, 9, 6),
        k=ints(0, 2),
        b=(6, 4),
    )
    for axis in ("axis=-2", "axis=1")
] + [
    case(
        "TensorScatter along the last axis but one, unless said otherwise",
        "t = MatMul(x, a)\nu = TensorScatter(p, t, k)\ny = MatMul(u, b)",
        inputs="float[2,5,3] x",
        opset=24,
        a=(3, 6),
        p=(2, 9, 6),
        k=ints(0, 2),
        b=(6, 4),
    )
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


X, Y = Operand("x", (6, 5)), Operand("y", (4, 5))
VALUES = {values: Operand("v", (2,), gs.Constant("v", np.array(values, np.float32))) for values in ((0, 1), (1, 0))}


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "counts"),
    [
        ("GatherElements", (X, Operand("k", (4, 5))), {}, Counting(1, (X.dim(0),))),
        ("GatherElements", (X, Operand("k", (4, 5))), {"axis": -1}, Counting(1, (X.dim(1),))),
        ("ScatterElements", (X, Operand("k", (4, 5)), Operand("w", (4, 5))), {}, Counting(1, (X.dim(0), Y.dim(0)))),
        ("Scatter", (X, Operand("k", (4, 5)), Operand("w", (4, 5))), {"axis": 1}, Counting(1, (X.dim(1), Y.dim(1)))),
        ("GatherND", (X, Operand("k", (4, 1))), {}, Counting(1, (X.dim(0),))),
        ("GatherND", (X, Operand("k", (3, 4, 1))), {}, Counting(1, (X.dim(0),))),
        ("GatherND", (X, Operand("k", (6, 1))), {"batch_dims": 1}, None),
        ("GatherND", (X, Operand("k", (4, 2))), {}, None),
        ("OneHot", (X, Operand("d", ()), VALUES[0, 1]), {}, Counting(0, (Y.dim(1),), empty=True)),
        ("OneHot", (X, Operand("d", ()), VALUES[1, 0]), {"axis": 0}, Counting(0, (Y.dim(0),))),
        ("OneHot", (X, Operand("d", ()), Operand("v", (2,))), {}, Counting(0, (Y.dim(1),))),
    ],
)
def test_numbers_count_on_an_axis(
    operator: str, inputs: tuple[Operand, ...], attributes: dict[str, int], counts: Counting | None
) -> None:
    assert RULES[operator].counts(Call(operator, "", inputs, (Y,), attributes, 18)) == counts


def test_a_one_hot_is_as_deep_as_what_is_left_of_its_axis() -> None:
    depth = gs.Constant("d", np.array(7))
    inputs = Operand("x", (5,)), Operand("d", (), depth), VALUES[0, 1]
    call = Call("OneHot", "", inputs, (Operand("y", (7, 5)),), {"axis": 0}, 18)
    node = gs.Node("OneHot", inputs=[gs.Variable("x"), depth], outputs=[gs.Variable("y")])
    repair = RULES["OneHot"].repair
    assert repair is not None
    repair(node, call, lambda operand, axis: np.arange(3 if axis % 2 == 0 else 5))
    assert node.inputs[1].values == 3


def test_what_is_picked_from_all_elements_holds_them() -> None:
    """Called, since what comes out is as long as the condition has it, so that no rule is asked."""
    condition = Operand("k", (3,), gs.Constant("k", np.array([True, False, True])))
    assert not [*RULES["Compress"].ties(Call("Compress", "", (X, condition), (Operand("y", (2,)),), {}, 18))]
