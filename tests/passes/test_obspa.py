"""The OBSPA prototype's rule: its ordered score, its sweep, and why the default does not use them."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.calibration import Calibration, Moments, layers
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.obs import damped, error, fit
from graphprune.state import State
from passes.obspa import Obspa
from passes.obspa_update import ObspaUpdate, _swept
from tests.law import net


def moments(rng: np.random.Generator, columns: int) -> np.ndarray:
    x = rng.standard_normal((400, columns)) @ rng.standard_normal((columns, columns)) + 0.5
    x = np.c_[x, np.ones(len(x))]
    return x.T @ x / len(x)


def test_the_score_by_hand() -> None:
    rng = np.random.default_rng(0)
    model = load(net("t = Conv(x, a)\ny = Conv(t, b)", a=(6, 3, 1, 1), b=(5, 6, 1, 1)))
    second, layer = moments(rng, 6), layers(model)[0]["b"][1]
    weights = np.c_[np.asarray(model.constants["b"].values, np.float64).reshape(5, 6), np.zeros(5)]
    known = Moments(layer, weights[None], second[None], 1.0)
    state = State(model, data={"calibration": Calibration({"b": known}, {}, {}, {}, "")})
    h = damped(second, 0.01)
    # The j-th squared diagonal of the factor is the first entry of the inverse of what is left from j on.
    expected = [
        (weights[:, j] ** 2).sum() / np.linalg.inv(np.linalg.inv(h)[: j + 1, : j + 1])[j, j] ** -1 for j in range(6)
    ]
    assert Obspa()(state).scores["a[0]"] == pytest.approx(np.array(expected) / np.mean(expected), rel=1e-6)


def test_the_first_column_is_made_up_for_exactly_and_the_last_not_at_all() -> None:
    rng = np.random.default_rng(1)
    second, weights = moments(rng, 8), rng.standard_normal((3, 9))
    kept = np.arange(1, 9)
    assert _swept(weights, second, kept) == pytest.approx(fit(weights, second, kept, 0.0), rel=1e-6)
    apart = second.copy()
    apart[-1, :-1] = apart[:-1, -1] = 0  # no help from the constant, which stands last
    kept = np.r_[0:7, 8]
    assert _swept(weights, apart, kept) == pytest.approx(weights[:, kept])


def test_the_sweep_is_worse_than_the_joint_solve() -> None:
    errors = np.zeros(2)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        second, weights = moments(rng, 24), rng.standard_normal((6, 25))
        kept = np.append(np.sort(rng.permutation(24)[:12]), 24)
        swept, joint = _swept(weights, second, kept), fit(weights, second, kept, 0.0)
        errors += error(weights, second, swept, kept), error(weights, second, joint, kept)
    assert errors[0] > 1.5 * errors[1]


@pytest.mark.parametrize("step", [Obspa(), ObspaUpdate()])
def test_needs_calibration(step: Obspa | ObspaUpdate) -> None:
    with pytest.raises(UsageError, match="calibrated"):
        step(State(load(net("t = Conv(x, a)\ny = Conv(t, b)", a=(4, 3, 1, 1), b=(2, 4, 1, 1)))))
