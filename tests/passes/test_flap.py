"""Weights times the size of what flows into them, and how it fluctuates: the formulas on moments that are given."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.calibration import Calibration, Moments, layers
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.pipeline import parse, run
from graphprune.state import State
from passes.flap import Flap
from passes.wanda import Wanda
from tests.law import net


def calibrated(seed: int = 0) -> tuple[State, np.ndarray, np.ndarray]:
    """A state whose one group is read by a convolution of two taps, the samples and the weights of that."""
    rng = np.random.default_rng(seed)
    model = load(net("t = Conv(x, a)\ny = Conv<pads=[0,0,0,1]>(t, b)", a=(6, 3, 1, 1), b=(5, 6, 1, 2)))
    x = rng.standard_normal((400, 12)) * rng.uniform(0.5, 2, 12) + rng.standard_normal(12)
    second = np.c_[x, np.ones(400)].T @ np.c_[x, np.ones(400)] / 400
    weights = np.asarray(model.constants["b"].values, np.float64).reshape(5, 12)
    known = Moments(layers(model)[0]["b"][1], np.c_[weights, np.zeros(5)][None], second[None], 1.0)
    return State(model, data={"calibration": Calibration({"b": known}, {}, {}, {}, "")}), x, weights


def test_wanda_by_hand() -> None:
    state, x, weights = calibrated()
    expected = (np.abs(weights).sum(0) * np.sqrt((x**2).mean(0))).reshape(6, 2).sum(1)
    assert Wanda()(state).scores["a[0]"] == pytest.approx(expected / expected.mean())


def test_flap_by_hand() -> None:
    state, x, weights = calibrated()
    expected = ((weights**2).sum(0) * x.var(0)).reshape(6, 2).sum(1)
    score = Flap()(state).scores["a[0]"]
    assert score == pytest.approx((expected - expected.mean()) / expected.std())


def test_so_much_damping_moves_constants_into_the_bias_and_nothing_else() -> None:
    """The mean of what the lost inputs carried; weights that are left stay as they were."""
    rng = np.random.default_rng(0)
    a, bias, b = rng.standard_normal((6, 4)), rng.standard_normal(6), rng.standard_normal((5, 6))
    model = load(
        net(
            "t = Gemm<transB=1>(x, a, c)\nu = Tanh(t)\ny = Gemm<transB=1>(u, b)",
            inputs="float[N,4] x",
            **{name: w.astype(np.float32) for name, w in {"a": a, "c": bias, "b": b}.items()},
        )
    )
    steps = parse("calibrate, flap, uniform(ratio=0.5), cut, reconstruct(damp=1e6)")
    state, _ = run(State(model), steps)
    gone = next(iter(state.data["cut"].values()))
    moments = state.data["calibration"].moments["b"]
    node = state.model.graph.nodes[-1]
    assert np.asarray(node.inputs[1].values) == pytest.approx(b[:, ~gone], rel=1e-3, abs=1e-3)
    shift = b[:, gone] @ moments.second[0][-1, :-1][gone]
    assert np.asarray(node.inputs[2].values) == pytest.approx(shift, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("score", [Wanda(), Flap()])
def test_without_calibration_they_say_what_to_write(score: Wanda | Flap) -> None:
    state, *_ = calibrated()
    with pytest.raises(UsageError, match="needs calibrated layers"):
        score(State(state.model))
