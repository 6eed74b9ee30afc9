"""The constant part of a graph is evaluated once."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from graphprune.model import load
from graphprune.proof import Runner, compare, seeded_inputs
from graphprune.state import State
from passes.fold_constants import FoldConstants, fragment
from tests.law import assert_law, net


def folded(proto: onnx.ModelProto, **options: float) -> State:
    return FoldConstants(**options)(State(load(proto)))


def test_a_chain_of_constants_becomes_one() -> None:
    proto = net(
        "k = Add(a, c)\nr = Sqrt(k)\ny = Mul(x, r)",
        inputs="float[3] x",
        a=np.ones(3, np.float32),
        c=np.full(3, 3, np.float32),
    )
    after = folded(proto).model
    assert [n.op for n in after.graph.nodes] == ["Mul"]
    assert {n: c.values.tolist() for n, c in after.constants.items()} == {"r": [2.0, 2.0, 2.0]}
    inputs = seeded_inputs(after)
    assert np.array_equal(Runner(after)(inputs)["y"], inputs["x"] * 2)


def test_several_readers_and_outputs() -> None:
    proto = net("k = Add(a, a)\ny = Mul(x, k)\nz = Sub(x, k)", inputs="float[3] x", outputs="y z k", a=(3,))
    before, after = load(proto), folded(proto).model
    assert [n.op for n in after.graph.nodes] == ["Mul", "Sub"]
    inputs = seeded_inputs(before)
    first, second = Runner(before)(inputs), Runner(after)(inputs)
    assert all(np.array_equal(first[n], second[n]) for n in ("y", "z", "k"))


def test_what_would_grow_too_much_stays() -> None:
    proto = net("k = Expand(a, s)\ny = Add(x, k)", inputs="float[900,900] x", a=(1, 1), s=np.array([900, 900]))
    state = State(load(proto))
    assert FoldConstants()(state) is state
    assert [n.op for n in FoldConstants(growth=1e9)(state).model.graph.nodes] == ["Add"]


def test_what_grows_too_much_holds_nothing_else_back() -> None:
    body = "k = Expand(a, s)\nt = Add(x, k)\nl = Neg(b)\nm = Abs(l)\ny = Mul(t, m)"
    before = load(net(body, inputs="float[900,900] x", a=(1, 1), s=np.array([900, 900]), b=(900,)))
    after = FoldConstants()(State(before)).model
    assert [n.op for n in after.graph.nodes] == ["Expand", "Add", "Mul"]
    np.testing.assert_array_equal(after.constants["m"].values, np.abs(before.constants["b"].values))


def test_an_embedding_that_is_also_the_last_layer_is_not_stored_twice() -> None:
    proto = net("e = Gather(a, i)\nk = Transpose(a)\ny = MatMul(e, k)", inputs="int64[5] i", a=(700, 400))
    state = State(load(proto))
    assert FoldConstants()(state) is state
    small = net("e = Gather(a, i)\nk = Transpose(a)\ny = MatMul(e, k)", inputs="int64[5] i", a=(7, 4))
    assert [n.op for n in folded(small).model.graph.nodes] == ["Gather", "MatMul"]


def test_random_and_quantised_weights_stay() -> None:
    proto = net(
        "k = RandomNormalLike(a)\nq = DequantizeLinear(w, s)\nt = Add(x, k)\ny = Mul(t, q)",
        inputs="float[3] x",
        a=(3,),
        w=np.array([1, 2, 3], np.int8),
        s=np.array(0.1, np.float32),
    )
    state = State(load(proto))
    assert FoldConstants()(state) is state


def test_custom_operators_stay() -> None:
    proto = net("k = Relu(a)\ny = Add(x, k)", inputs="float[3] x", a=(3,))
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    state = State(load(proto))
    assert FoldConstants()(state) is state


def test_nothing_to_do_returns_the_same_state() -> None:
    state = State(load(net("y = Relu(x)")))
    assert FoldConstants()(state) is state


def test_a_shared_matrix_stays_one_and_a_shared_vector_does_not() -> None:
    body = "w2 = Identity(w)\nb2 = Identity(b)\nt = Gemm(x, w, b)\ny = Gemm(t, w2, b2)"
    model = load(net(body, inputs="float[2,6] x", w=(6, 6), b=(6,)))
    folded = FoldConstants()(State(model)).model
    assert sorted(folded.constants) == ["b", "b2", "w"]
    assert [n.op for n in folded.graph.nodes] == ["Gemm", "Gemm"]
    inputs = seeded_inputs(model)
    np.testing.assert_array_equal(Runner(folded)(inputs)["y"], Runner(model)(inputs)["y"])


def test_fragment_computes_from_constants() -> None:
    model = load(net("k = Add(a, c)\ny = Mul(x, k)", inputs="float[3] x", a=(3,), c=(3,)))
    node = model.graph.nodes[0]
    proto = fragment(model, [node], node.outputs)
    (value,) = ort.InferenceSession(proto.SerializeToString()).run(None, {})
    expected = model.constants["a"].values + model.constants["c"].values
    assert np.array_equal(value, expected)
    assert compare({"k": value}, {"k": expected}, 0).holds


def test_normalisations_that_share_a_scale_of_ones_are_pruned_apart() -> None:
    body = """
        t = Conv(x, a)
        u = InstanceNormalization(t, ones, zeros)
        v = Conv(u, b)
        w = InstanceNormalization(v, ones, zeros)
        y = Conv(w, c)
    """
    filled = {"ones": np.ones(6, np.float32), "zeros": np.zeros(6, np.float32)}
    model = load(net(body, a=(6, 3, 1, 1), b=(6, 6, 1, 1), c=(2, 6, 1, 1), **filled))
    state = FoldConstants()(State(model))
    assert [g.weights[0].tensor for g in State(model).groups] == ["a"]
    assert [[d.tensor for d in g.weights] for g in state.groups] == [
        ["a", "ones", "zeros", "b"],
        ["b", "ones:w:1", "zeros:w:2", "c"],
    ]
    assert_law(state.model)
    assert FoldConstants()(state) is state


def test_a_vector_of_different_numbers_stays_shared() -> None:
    body = "t = Conv(x, a)\nu = Mul(t, s)\nv = Conv(u, b)\nw = Mul(v, s)\ny = Conv(w, c)"
    model = load(net(body, a=(6, 3, 1, 1), s=(6, 1, 1), b=(6, 6, 1, 1), c=(2, 6, 1, 1)))
    state = State(model)
    assert FoldConstants()(state) is state
