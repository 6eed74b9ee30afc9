"""Refitting on the pruned prefix: nearer to the dense model on unseen inputs, and only where there is a reason to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.pipeline import parse, run
from graphprune.proof import Runner
from graphprune.state import State
from passes.refit_in_order import RefitInOrder
from tests.law import net

RESIDUAL = """
    a = Conv(x, a1)
    b = Relu(a)
    c = Conv(b, a2, bias)
    d = Add(c, x)
    e = Conv(d, a3)
    f = Relu(e)
    g = Conv(f, a4)
    y = Add(d, g)
"""
NETS = {
    "convolutions": (
        """a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, w2, bias)
        d = Relu(c)
        y = Conv<pads=[1,1,1,1]>(d, w3)""",
        {"w1": (24, 4, 3, 3), "w2": (24, 24, 3, 3), "bias": (24,), "w3": (4, 24, 3, 3)},
    ),
    "residual": (
        RESIDUAL,
        {"a1": (24, 4, 1, 1), "a2": (4, 24, 1, 1), "bias": (4,), "a3": (24, 4, 1, 1), "a4": (4, 24, 1, 1)},
    ),
    "groups": (
        """a = Conv(x, w1)
        b = Relu(a)
        c = Conv<group=2>(b, w2)
        d = Relu(c)
        y = Conv(d, w3)""",
        {"w1": (24, 4, 1, 1), "w2": (24, 12, 1, 1), "w3": (4, 24, 1, 1)},
    ),
    "matrices": (
        """u = Flatten(x)
        a = MatMul(u, w1)
        b = Add(a, bias)
        c = Relu(b)
        d = MatMul(c, w2)
        e = Relu(d)
        f = MatMul(e, w3)
        g = Relu(f)
        y = Gemm(g, w4)""",
        {"w1": (64, 16), "bias": (16,), "w2": (16, 16), "w3": (16, 16), "w4": (16, 4)},
    ),
}


def _images(count: int, seed: int) -> np.ndarray:
    """Smooth, so that channels are alike and much can be made up for: float32 [count, 4, 4, 4]."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((count, 2, 4, 4)) + rng.standard_normal((count, 2, 1, 1))
    return np.einsum("oc,nchw->nohw", np.random.default_rng(99).standard_normal((4, 2)), parts).astype(np.float32)


def _cut(body: str, shapes: dict[str, tuple[int, ...]]) -> tuple[Model, State]:
    model = load(net(body, inputs="float[N,4,4,4] x", **shapes))
    state = State(model, data={"inputs": {"x": _images(600, 1)}})
    text = "calibrate(count=4, given=True), obs, uniform(ratio=0.5, multiple=1), cut, reconstruct"
    return model, run(state, parse(text))[0]


def _error(model: Model, dense: Model) -> float:
    inputs = {"x": _images(100, 2)}
    made, wanted = (np.concatenate([Runner(m)({"x": x[None]})["y"] for x in inputs["x"]]) for m in (model, dense))
    return float(np.square(made - wanted).mean() / wanted.var())


@pytest.mark.parametrize("name", NETS)
def test_unseen_inputs_are_answered_better(name):
    dense, state = _cut(*NETS[name])
    after, (record,) = run(state, parse("refit_in_order(limit=1.0)"))
    assert record.agreement is not None
    assert not record.cut
    before = _error(state.model, dense)
    assert before > 1e-4
    assert _error(after.model, dense) < 0.9 * before


def test_every_channel_gets_its_mean_and_spread_back():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((1, 400, 6)), np.ones((1, 400, 1))], axis=2)
    y = rng.standard_normal((1, 400, 3)) * [1.0, 1.0, 5.0] + 2  # nothing that x could tell
    weights = rng.standard_normal((1, 3, 7))
    fitted = RefitInOrder(limit=1.3)._fitted(weights, x, y, np.arange(400) % 2 == 0)
    made = x @ fitted.swapaxes(1, 2)
    assert made.mean(axis=1) == pytest.approx(y.mean(axis=1), rel=1e-9)
    least_squares = RefitInOrder(limit=1.0)._fitted(weights, x, y, np.arange(400) % 2 == 0)
    assert (made.std(axis=1) / (x @ least_squares.swapaxes(1, 2)).std(axis=1)).max() < 1.3 + 1e-9


def test_right_weights_are_left_alone():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((1, 50, 6)), np.ones((1, 50, 1))], axis=2)
    weights = rng.standard_normal((1, 3, 7))
    assert RefitInOrder()._fitted(weights, x, x @ weights.swapaxes(1, 2), np.arange(50) % 2 == 0) is None


@pytest.mark.parametrize("without", ["real inputs", "a cut", "zeros"])
def test_nothing_is_done(without):
    _, state = _cut(*NETS["convolutions"])
    data = dict(state.data)
    if without == "real inputs":
        data["calibration"] = replace(data["calibration"], real=())
    elif without == "a cut":
        data["cut"] = {}
    else:
        data["sparsity"] = {}
    state = replace(state, data=data)
    assert RefitInOrder()(state) is state


def test_inputs_may_be_of_several_sizes_and_bring_more_than_is_read():
    body = "a = Conv(x, w1)\nb = Relu(a)\ny = Conv(b, w2)"
    model = load(net(body, inputs="float[N,4,H,W] x", w1=(8, 4, 1, 1), w2=(4, 8, 1, 1)), dim_params={"H": 4, "W": 4})
    state = State(model, data={"inputs": {"x": _images(40, 1), "unread": np.zeros(3)}})
    state, _ = run(state, parse("calibrate(count=4, given=True), obs, uniform(ratio=0.5), cut, reconstruct"))
    (own,) = state.data["calibration"].real
    several = replace(state.data["calibration"], real=(own, {"x": np.repeat(_images(20, 3), 2, axis=3)}))
    after = RefitInOrder()(replace(state, data={**state.data, "calibration": several}))
    assert np.isfinite(_error(after.model, model))
    assert after.model is not state.model


def test_layers_have_to_be_calibrated():
    _, state = _cut(*NETS["convolutions"])
    with pytest.raises(UsageError, match="calibrate"):
        RefitInOrder()(replace(state, data={}))
