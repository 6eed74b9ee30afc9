"""Gradients against differences of the loss, operator by operator; what is made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.calibration import adjoints
from graphprune.calibration.activations import batched, run
from graphprune.calibration.adjoints import ADJOINTS
from graphprune.calibration.gradient import with_gradients, with_outputs
from graphprune.calibration.importance import answers, importance
from graphprune.calibration.matching import matched
from graphprune.model import load
from graphprune.proof import Runner
from tests.law import net

BODIES = {
    "Abs": ("y = Abs(x)", {}),
    "Add": ("t = Conv(x, a)\ny = Add(t, x)", {"a": (2, 2, 1, 1)}),
    "AveragePool": ("y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", {}),
    "BatchNormalization": (
        "y = BatchNormalization(x, a, b, c, d)",
        {"a": (2,), "b": (2,), "c": (2,), "d": np.array([0.5, 2], np.float32)},
    ),
    "Cast": ("y = Cast<to=1>(x)", {}),
    "Clip": ("y = Clip(x, lo, hi)", {"lo": np.array(-0.5, np.float32), "hi": np.array(0.7, np.float32)}),
    "Concat": ("t = Tanh(x)\ny = Concat<axis=1>(x, t, x)", {}),
    "Conv": ("y = Conv<pads=[1,2,1,0]>(x, a)", {"a": (4, 2, 3, 3)}),
    "Conv, grouped": ("y = Conv<pads=[1,1,1,1], dilations=[1,2], group=2>(x, a)", {"a": (4, 1, 3, 2)}),
    "Conv, strided": ("y = Conv<pads=[1,0,0,1], strides=[2,3]>(x, a)", {"a": (4, 2, 3, 2)}),
    "Conv, depthwise and strided": ("y = Conv<strides=[2,2], pads=[1,1,1,1], group=2>(x, a)", {"a": (2, 1, 3, 3)}),
    "Conv, padded wide": ("y = Conv<pads=[2,2,2,2]>(x, a)", {"a": (4, 2, 1, 1)}),
    "ConvTranspose": ("y = ConvTranspose<pads=[1,0,0,1]>(x, a)", {"a": (2, 4, 3, 2)}),
    "ConvTranspose, strided": (
        "y = ConvTranspose<strides=[2,3], dilations=[2,1], output_padding=[1,2], group=2>(x, a)",
        {"a": (2, 3, 3, 2)},
    ),
    "Div": ("t = Exp(c)\ny = Div(x, t)", {"c": (1, 2, 1, 1)}),
    "Div, by x": ("s = Sigmoid(x)\ny = Div(c, s)", {"c": (3, 2, 6, 7)}),
    "Dropout": ("y = Dropout(x)", {}),
    "Elu": ("y = Elu<alpha=0.7>(x)", {}),
    "Erf": ("y = Erf(x)", {}),
    "Exp": ("y = Exp(x)", {}),
    "Expand": ("g = GlobalAveragePool(x)\ny = Expand(g, p)", {"p": np.array([3, 2, 4, 5], np.int64)}),
    "Flatten": ("t = Flatten(x)\ny = Gemm(t, a)", {"a": (84, 3)}),
    "Gather": ("y = Gather<axis=2>(x, i)", {"i": np.array(-2)}),
    "Gelu": ("y = Gelu(x)", {}),
    "Gemm": ("t = Flatten(x)\ny = Gemm<transB=1, alpha=0.5>(t, a, b)", {"a": (3, 84), "b": (3,)}),
    "GlobalAveragePool": ("y = GlobalAveragePool(x)", {}),
    "GlobalMaxPool": ("y = GlobalMaxPool(x)", {}),
    "HardSigmoid": ("y = HardSigmoid<alpha=0.3>(x)", {}),
    "HardSwish": ("t = Add(x, x)\ny = HardSwish(t)", {}),
    "Identity": ("y = Identity(x)", {}),
    "LayerNormalization": ("y = LayerNormalization<axis=-2>(x, a, b)", {"a": (6, 7), "b": (6, 7)}),
    "LeakyRelu": ("y = LeakyRelu<alpha=0.2>(x)", {}),
    "Log": ("s = Sigmoid(x)\ny = Log(s)", {}),
    "MatMul": ("y = MatMul(x, a)", {"a": (7, 4)}),
    "MatMul, twice": ("t = Transpose<perm=[0,1,3,2]>(x)\ny = MatMul(x, t)", {}),
    "Max": ("t = Neg(x)\ny = Max(x, t, c)", {"c": (1, 2, 1, 1)}),
    "MaxPool": ("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", {}),
    "MaxPool, windows that overlap": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "MaxPool, dilated": ("y = MaxPool<kernel_shape=[2,3], dilations=[2,1], pads=[1,0,0,1]>(x)", {}),
    "Min": ("t = Neg(x)\ny = Min(x, t)", {}),
    "Mish": ("y = Mish(x)", {}),
    "Mul": ("g = GlobalAveragePool(x)\ns = Sigmoid(g)\ny = Mul(x, s)", {}),
    "Neg": ("y = Neg(x)", {}),
    "PRelu": ("y = PRelu(x, a)", {"a": (2, 1, 1)}),
    "Pad": ("y = Pad(x, p)", {"p": np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64)}),
    "Pow": ("y = Pow(x, n)", {"n": np.array(3, np.float32)}),
    "RMSNormalization": ("y = RMSNormalization(x, a)", {"a": (7,)}),
    "Reciprocal": ("s = Sigmoid(x)\ny = Reciprocal(s)", {}),
    "ReduceMax, of an older opset": ("y = ReduceMax<axes=[2], keepdims=0>(x)", {}),
    "ReduceMax": ("y = ReduceMax<keepdims=0, axes=[1,-1]>(x)", {}),
    "ReduceMax, of all": ("y = ReduceMax<keepdims=1>(x)", {}),
    "ReduceMean": ("y = ReduceMean<keepdims=1, axes=[2,3]>(x)", {}),
    "ReduceMin": ("y = ReduceMin<keepdims=1, axes=[2]>(x)", {}),
    "ReduceL2": ("y = ReduceL2<keepdims=0, axes=[1,-1]>(x)", {}),
    "ReduceMean, without axes": ("y = ReduceMean<keepdims=0, axes=[2]>(x)", {}),
    "ReduceSum": ("y = ReduceSum<keepdims=0>(x, p)", {"p": np.array([-1, 1], np.int64)}),
    "Relu": ("y = Relu(x)", {}),
    "Reshape": ("y = Reshape(x, p)", {"p": np.array([3, 2, 42], np.int64)}),
    "Sigmoid": ("y = Sigmoid(x)", {}),
    "Slice": (
        "y = Slice(x, s, e, d)",
        {"s": np.array([1, -5]), "e": np.array([2**31, -1]), "d": np.array([3, 2])},
    ),
    "Softmax": ("y = Softmax<axis=1>(x)", {}),
    "Softmax, of an older opset": ("y = Softmax<axis=2>(x)", {}),
    "Softplus": ("y = Softplus(x)", {}),
    "Sqrt": ("s = Sigmoid(x)\ny = Sqrt(s)", {}),
    "Squeeze": ("t = ReduceMean<keepdims=1, axes=[2,3]>(x)\ny = Squeeze(t, p)", {"p": np.array([2, 3], np.int64)}),
    "Sub": ("t = Relu(x)\ny = Sub(x, t)", {}),
    "Tanh": ("y = Tanh(x)", {}),
    "Transpose": ("y = Transpose<perm=[0,3,1,2]>(x)", {}),
    "Unsqueeze": ("y = Unsqueeze(x, p)", {"p": np.array([1], np.int64)}),
    "Where": ("t = Tanh(x)\nc = Greater(x, z)\ny = Where(c, x, t)", {"z": np.array(0, np.float32)}),
}

OPSETS = {  # that have it, or have it so
    "Gelu": 20,
    "Mish": 18,
    "RMSNormalization": 23,
    "ReduceMax, of an older opset": 11,
    "Softmax, of an older opset": 11,
}


def test_every_operator_of_the_table_is_here():
    assert {name.split(",")[0] for name in BODIES} == set(ADJOINTS)


CONVOLVED = [name for name in BODIES if name.split(",")[0] in ("AveragePool", "Conv", "MaxPool")]


@pytest.mark.parametrize(("name", "device"), [*((n, False) for n in BODIES), *((n, True) for n in CONVOLVED)])
def test_a_gradient_is_the_difference_of_the_loss(name, device, monkeypatch):
    """The loss is the sum of y², whose own gradient is 2 y."""
    monkeypatch.setattr(adjoints.transposed, "on_device", lambda: device)
    body, weights = BODIES[name]
    rng = np.random.default_rng(0)
    model = load(net(body, inputs="float[3,2,6,7] x", opset=OPSETS.get(name, 17), **weights))
    graph, gradients = with_gradients(model, {"y": lambda tape, y: tape("Mul", y, 2.0)}, ["x"])
    assert not device or name == "Conv, padded wide" or all(node.op != "ConvTranspose" for node in graph.graph.nodes)
    x = rng.permutation(np.linspace(-1.9, 1.9, 252, dtype=np.float32)).reshape(
        3, 2, 6, 7
    )  # no two alike, for a maximum
    direction = rng.standard_normal(x.shape).astype(np.float32)
    step = 1e-3
    runner = Runner(model)

    def loss(at: np.ndarray) -> float:
        return float((runner({"x": at.astype(np.float32)})["y"].astype(np.float64) ** 2).sum())

    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    found = Runner(graph)({"x": x})[gradients["x"]]
    assert found.shape == x.shape
    assert float((found * direction).sum()) == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_what_is_put_behind_a_past_has_its_gradient_with_a_shorter_past() -> None:
    """Models are analysed with something past, and run with nothing."""
    model = load(net("t = Concat<axis=2>(p, x)\ny = Tanh(t)", inputs="float[1,2,P,3] p, float[1,2,5,3] x"))
    graph, gradients = with_gradients(model, {"y": lambda tape, y: tape("Mul", y, 2.0)}, ["x"])
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 3)).astype(np.float32)
    y = np.tanh(x)
    for past in (0, 4):
        found = Runner(graph)({"p": np.ones((1, 2, past, 3), np.float32), "x": x})[gradients["x"]]
        assert found == pytest.approx(2 * y * (1 - y**2), abs=1e-5)


def test_no_gradient_passes_a_change_of_type() -> None:
    model = load(net("t = Cast<to=11>(x)\ny = Cast<to=1>(t)", inputs="float[3,2,6,7] x"))
    assert with_gradients(model, {"y": lambda tape, y: y}, ["x"])[1] == {}


def test_no_gradient_passes_an_unknown_operator():
    model = load(net("t = Round(x)\ny = Relu(t)", inputs="float[3,4] x"))
    _, gradients = with_gradients(model, {"y": lambda tape, y: y}, ["x", "t"])
    assert set(gradients) == {"t"}


def test_matched_inputs_meet_the_statistics_that_real_ones_had():
    rng = np.random.default_rng(1)
    text = "t = Conv(x, a)\nu = Relu(t)\nv = Conv(u, b)\ny = Relu(v)"
    model = batched(load(net(text, inputs="float[1,3,8,8] x", a=(6, 3, 3, 3), b=(5, 6, 1, 1))))
    real = rng.uniform(0.5, 1, (64, 3, 8, 8)).astype(np.float32)
    values = next(iter(run(model, ["t", "v"], {"x": real})))
    wanted = {n: {"mean": values[n].mean((0, 2, 3)), "std": values[n].std((0, 2, 3))} for n in ("t", "v")}
    start = {"x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    found = matched(model, wanted, start, 150, (-2, 2))
    assert found is not None

    def off(x: np.ndarray) -> float:
        got = next(iter(run(model, ["t", "v"], {"x": x})))
        return max(float(np.abs((got[n].mean((0, 2, 3)) - wanted[n]["mean"]) / wanted[n]["std"]).max()) for n in wanted)

    assert off(found["x"]) < 0.1 * off(start["x"])


def test_nothing_is_matched_where_no_gradient_arrives():
    model = batched(load(net("t = Round(x)\ny = Conv(t, a)", inputs="float[1,3,8,8] x", a=(6, 3, 3, 3))))
    wanted = {"y": {"mean": np.zeros(6), "std": np.ones(6)}}
    assert matched(model, wanted, {"x": np.ones((4, 3, 8, 8), np.float32)}, 3, (-2, 2)) is None


def test_nothing_is_matched_with_gradients_that_overflow():
    model = batched(load(net("t = Mul(x, h)\ny = Conv(t, a)", a=(6, 3, 3, 3), h=np.array(1e30, np.float32))))
    wanted = {"y": {"mean": np.zeros(6), "std": np.ones(6)}}
    assert matched(model, wanted, {"x": np.ones((4, 3, 8, 8), np.float32)}, 3, (-2, 2)) is None


def test_importance_is_what_the_output_makes_of_an_error():
    """Of a linear net the outputs' derivatives are the weights behind a layer, so that G is half of Wᵀ W."""
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((5, 6)).astype(np.float32)
    model = batched(load(net("t = MatMul(x, a)\ny = Gemm<transB=1>(t, b)", inputs="float[1,4] x", a=(4, 6), b=weights)))
    found = importance(model, ["t"], {"x": rng.standard_normal((4000, 4)).astype(np.float32)}, 0)["t"]
    expected = weights.T @ weights * 6 / (weights**2).sum()
    assert 2 * found - np.eye(6) == pytest.approx(expected, abs=0.15)
    assert np.trace(found) == pytest.approx(6)


def test_answers_are_what_a_softmax_reads():
    text = "t = MatMul(x, a)\np = Softmax(t)\ny = Relu(t)\nk = ArgMax(t)"
    graph = net(text, inputs="float[1,4] x", outputs="p y", a=(4, 6))
    assert answers(load(graph)) == ["t", "y"]


def test_more_outputs():
    model = load(net("t = Relu(x)\ny = Neg(t)", inputs="float[1,4] x"))
    shown = replace(model, header=with_outputs(model.header, ["t"]))
    assert set(Runner(shown)({"x": np.ones((1, 4), np.float32)})) == {"t", "y"}
