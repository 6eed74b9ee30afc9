"""Greedy removal against exhaustive recomputation; planted units that cost nothing; scores as error curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graphprune import obs
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.obs import Problem, damped, error, remove_all
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from passes.magnitude import Magnitude
from passes.obs import Obs
from tests.law import draw, net

BODY = "t = Conv<pads=[1,1,1,1]>(x, a)\nu = Relu(t)\ny = Conv<pads=[1,1,1,1], strides=[2,2]>(u, b)"


def problem(rng: np.random.Generator, units: int, p: int, others: int, outputs: int) -> Problem:
    """Correlated inputs; a unit owns ``p`` columns, ``others`` are nobody's, and the last is the constant 1."""
    n = units * p + others
    x = rng.standard_normal((4 * n + 40, n)) @ rng.standard_normal((n, n)) + rng.standard_normal(n)
    x = np.c_[x, np.ones(len(x))]
    columns = rng.permutation(n)[: units * p].reshape(units, p)
    weights = rng.standard_normal((outputs, n + 1))
    return Problem(weights, damped(x.T @ x / len(x), 0.01), columns, rng.uniform(0.5, 2))


def cost_without(problems: Sequence[Problem], gone: Sequence[int]) -> float:
    """The least error without some units, each layer solved from scratch."""
    total = 0.0
    for p in problems:
        kept = np.setdiff1d(np.arange(len(p.second)), p.columns[list(gone)])
        best = np.linalg.solve(p.second[np.ix_(kept, kept)], p.second[kept] @ p.weights.T).T
        total += p.worth * error(p.weights, p.second, best, kept)
    return total


@pytest.mark.parametrize("thickest", [1, 5, 64])
@pytest.mark.parametrize("sizes", [[(9, 1, 0, 4)], [(8, 1, 3, 4), (8, 3, 0, 5)], [(7, 4, 2, 3), (7, 2, 2, 30)]])
def test_greedy_removal_equals_exhaustive_recomputation(sizes, thickest, monkeypatch):
    monkeypatch.setattr(obs, "THICKEST", thickest)
    rng = np.random.default_rng(1)
    problems = [problem(rng, *size) for size in sizes]
    order, added = remove_all(problems)
    gone: list[int] = []
    for unit, step in zip(order, added, strict=True):
        costs = {u: cost_without(problems, [*gone, u]) for u in range(len(order)) if u not in gone}
        assert unit == min(costs, key=costs.__getitem__)
        assert step == pytest.approx(costs[unit] - cost_without(problems, gone), rel=1e-8)
        gone.append(unit)


@pytest.mark.parametrize("p", [1, 2])
def test_downdates_stay_accurate_over_hundreds_of_removals(p):
    problems = [problem(np.random.default_rng(2), 400 // p, p, 5, 60)]
    order, added = remove_all(problems)
    for count in (len(order) // 2, len(order) - 1, len(order)):
        assert added[:count].sum() == pytest.approx(cost_without(problems, order[:count]), rel=1e-8)


def planted() -> tuple[State, set[int]]:
    """A net of 16 channels of which four cost nothing, each with larger weights than any other channel."""
    rng = np.random.default_rng(3)
    a, b = draw(rng, (16, 3, 3, 3)), draw(rng, (5, 16, 3, 3))
    c = rng.uniform(0, 0.5, 16).astype(np.float32)
    a[[2, 9]] *= 20
    b[:, [2, 9]] *= 20
    c[[2, 9]] = -1e4  # dead behind the Relu
    a[[5, 13]], c[[5, 13]] = 8 * a[[4, 12]], 8 * c[[4, 12]]  # the same as 4 and 12, only larger
    b[:, [5, 13]] *= 4
    text = BODY.replace("(x, a)", "(x, a, c)").replace("(u, b)", "(u, b, d)")
    return State(load(net(text, inputs="float[1,3,12,12] x", a=a, b=b, c=c, d=(5,)))), {2, 9}


def test_dead_and_duplicate_units_go_first_and_change_nothing():
    state, dead = planted()
    (after, _) = run(state, parse("calibrate(count=16), obs(damp=0.0001)"))  # a twin costs what the damping costs
    (scores,) = after.scores.values()
    first = set(np.argsort(scores)[:4].tolist())
    assert dead < first
    assert len(first & {4, 5}) == len(first & {12, 13}) == 1
    by_size = set(np.argsort(next(iter(Magnitude()(state).scores.values())))[:4].tolist())
    assert not by_size & dead
    (small, records) = run(after, parse("uniform(ratio=0.25), cut, reconstruct"))
    assert small.model.constants["a"].shape[0] == 12
    cut, refit = (r.agreement.error for r in records[-2:])
    assert cut < 1e-5  # the law, against zeroing
    assert refit > 1e-2  # a duplicate was cut, so its twin had to take over
    inputs = seeded_inputs(state.model, 5)
    got, wanted = Runner(small.model)(inputs)["y"], Runner(state.model)(inputs)["y"]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_scores_are_the_error_curve_of_the_group():
    state, _ = planted()
    after, _ = run(state, parse("calibrate(count=4), obs"))
    (scores,) = after.scores.values()
    assert len(np.unique(scores)) == len(scores)
    assert scores.min() >= 0
    assert np.sort(scores)[-1] > 0.1  # without any unit most of the signal is gone


def test_groups_that_no_layer_reads_are_scored_by_their_weights():
    body = "t = Conv(x, a)\nu = Relu(t)\nv = Conv(t, b)\nw = Conv(u, b)\ny = Add(v, w)"
    shared = net(body, a=(6, 3, 1, 1), b=(4, 6, 1, 1))
    state, _ = run(State(load(shared)), parse("calibrate(count=2), obs"))
    assert state.data["calibration"].skipped == {"b": "its weight is shared"}
    assert any("its weight is shared" in note for note in state.data["notes"])
    assert all(len(np.unique(s)) == len(s) for s in state.scores.values())


def test_the_same_twice():
    state, _ = planted()
    a, b = (run(state, parse("calibrate(seed=4), obs"))[0].scores for _ in range(2))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_uncalibrated():
    with pytest.raises(UsageError, match="calibrated"):
        Obs()(planted()[0])
