"""How far outputs move when a unit falls silent: against what the weights say, on the inputs that calibration made."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.pipeline import parse
from graphprune.state import State
from tests.law import net


def scored(state: State, text: str, group: str = "a[1]") -> tuple[State, np.ndarray]:
    """The state behind some passes, and what every unit of a group adds to the group's curve."""
    for step in parse(text):
        state = step.run(state)
    curve = state.scores[group]
    order = np.argsort(curve)
    added = np.empty(len(curve))
    added[order] = np.diff(curve[order], prepend=0.0)
    return state, added


def test_of_a_linear_net_it_is_the_power_of_what_a_unit_sends_on() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal((6, 5)).astype(np.float32)
    b *= np.array([1, 2, 3, 1, 2, 3], np.float32)[:, None]
    model = load(net("t = MatMul(x, a)\ny = MatMul(t, b)", inputs="float[N,4] x", a=a, b=b))
    state, found = scored(State(model), "calibrate(count=6000), fisher(positions=6000)")
    sent = state.data["calibration"].shown()[0]["x"] @ a
    expected = (sent**2).sum(0) * (b**2).sum(1) / (sent @ b).var()
    assert found == pytest.approx(expected, rel=0.1)


def test_of_a_language_model_it_is_the_divergence_of_what_is_predicted() -> None:
    """Twice the second-order term, t² (Σ p w² - (Σ p w)²), w being the weights from the unit to the logits."""
    rng = np.random.default_rng(1)
    weights = {"e": rng.standard_normal((50, 4)), "a": rng.standard_normal((4, 6)), "b": rng.standard_normal((6, 50))}
    e, a, b = weights.values()
    body = "h = Gather(e, ids)\nt = MatMul(h, a)\ny = MatMul(t, b)"
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    model = load(net(body, inputs="int64[N,16] ids", **arrays))
    state, found = scored(State(model), "calibrate(count=200), fisher(positions=3200)")
    calibration = state.data["calibration"]
    assert calibration.logits == "y"
    sent = e[calibration.shown()[0]["ids"]].reshape(-1, 4) @ a
    likely = np.exp(sent @ b)
    likely /= likely.sum(1, keepdims=True)
    expected = (sent**2 * (likely @ (b**2).T - (likely @ b.T) ** 2)).sum(0)
    assert found == pytest.approx(expected, rel=0.2)


def test_what_a_unit_owns_counts_together() -> None:
    """Two columns behind a Flatten that say the same and weigh in with opposite signs: silence changes nothing."""
    b = np.ones((8, 3), np.float32)
    b[1::2] = -1
    body = "s = Conv(x, a)\nr = Concat<axis=3>(s, s)\nf = Flatten(r)\ny = MatMul(f, b)"
    model = load(net(body, inputs="float[1,3,1,1] x", a=(4, 3, 1, 1), b=b))
    _, found = scored(State(model), "calibrate, fisher", "a[0]")
    assert found == pytest.approx(np.zeros(4), abs=1e-12)


def test_groups_that_no_gradient_reaches_have_no_score() -> None:
    body = "t = MatMul(x, a)\nu = Round(t)\nv = MatMul(u, b)\nw = Floor(v)\ny = MatMul(w, c)"
    model = load(net(body, inputs="float[N,4] x", a=(4, 6), b=(6, 5), c=(5, 2)))
    state, _ = scored(State(model), "calibrate, fisher", "b[1]")
    assert set(state.scores) == {"b[1]"}
    assert state.data["notes"][-1] == "group a[1] is left alone: no gradient reaches it"
    with pytest.raises(UsageError, match="fisher needs calibrated layers"):
        scored(State(model), "fisher")


def test_outputs_of_whole_numbers_have_no_gradient_and_half_precision_is_refused() -> None:
    graph = "t = MatMul(x, a)\nu = MatMul(t, b)\ny = Relu(u)\ni = ArgMax<axis=1>(u)"
    arrays = {"a": np.eye(4, 6, dtype=np.float32), "b": np.eye(6, 5, dtype=np.float32)}
    model = net(graph, inputs="float[N,4] x", outputs="y", **arrays)
    model.graph.output.append(onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["N", 1]))
    state, _ = scored(State(load(model)), "calibrate, fisher")
    assert set(state.scores) == {"a[1]"}
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    body = "h = Cast<to=10>(x)\nt = MatMul(h, a)\nu = MatMul(t, b)\n"
    for last, says in (
        ("v = Relu(u)\ny = Cast<to=1>(v)", "no gradient of model reaches a layer"),
        ("y = Relu(u)", "has gradients that onnxruntime cannot compute"),
    ):
        with pytest.raises(UsageError, match=says):
            scored(State(load(net(body + last, inputs="float[N,4] x", **half))), "calibrate, fisher")
