"""Allocation leaves what other budgets would have given: legal widths, costs counted, errors from the curves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from graphprune.passes.allocate import Allocate
from graphprune.passes.choose import Choose
from graphprune.passes.uniform import Uniform

from graphprune.cost import CostModel
from graphprune.model import load
from graphprune.state import State
from tests.law import net

BODY = "s = Conv(x, a)\nt = Relu(s)\nu = Conv(t, b)\nv = Relu(u)\ny = Conv(v, c)"


@pytest.fixture
def state() -> State:
    """Two groups of 16 units; the error of the second grows ten times as fast."""
    model = load(net(BODY, a=(16, 3, 1, 1), b=(16, 16, 1, 1), c=(2, 16, 1, 1)))
    start = State(model)
    curve = np.arange(1, 17) ** 2 / 256
    return State(model, scores={g.name: curve * (1 + 9 * k) for k, g in enumerate(start.groups)})


@pytest.mark.parametrize("amounts", [{"macs": 0.5}, {"params": 0.5}])
def test_the_tradeoff_goes_through_the_choice(state: State, amounts: dict[str, float]) -> None:
    result = Allocate(multiple=4, **amounts)(state)
    tradeoff = result.data["tradeoff"]
    assert tradeoff.of == ("macs" if "macs" in amounts else "parameters")
    costs = CostModel(state.model, state.groups)
    cut, full = costs.at({name: len(units) for name, units in result.drop.items()}), costs.at()
    assert tradeoff.chosen.macs == pytest.approx(cut.macs / full.macs)
    assert tradeoff.chosen.parameters == pytest.approx(cut.parameters / full.parameters)
    assert tradeoff.chosen.error == pytest.approx(
        sum(float(np.sort(state.scores[name])[len(units) - 1]) for name, units in result.drop.items())
    )
    assert tradeoff.chosen in tradeoff.points


def test_points_are_sorted_and_none_is_better_than_another(state: State) -> None:
    points = Allocate(macs=0.5, multiple=4)(state).data["tradeoff"].points
    assert len(points) >= 4
    assert all(a.macs < b.macs and a.error > b.error for a, b in pairwise(points))
    assert points[-1].macs == 1
    assert points[-1].error == 0
    assert points[0].macs < 0.2


def test_units_of_all_groups_that_compete_are_shared_out_and_earlier_choices_stay(state: State) -> None:
    """The marginal errors of the groups are k and 10 k: most of the 16 units go where they cost less."""
    first, second = (g.name for g in state.groups)
    both = Allocate(units=0.5, floor=0)(state).drop
    # The curves are convex, so the least total is found by trying every split.
    curve = {name: np.append(0, np.sort(score)) for name, score in state.scores.items()}
    best = min(range(1, 16), key=lambda k: curve[first][k] + curve[second][16 - k])
    assert (len(both[first]), len(both[second])) == (best, 16 - best)
    half = Allocate(units=0.5, among=r"^b\[0\]")(state)
    assert {name: len(units) for name, units in half.drop.items()} == {second: 8}
    more = Allocate(units=0.75, among=r"^a\[0\]")(half)
    assert {name: len(units) for name, units in more.drop.items()} == {first: 4, second: 8}
    choice = Choose(units=0.5, among=r"^a\[0\]")(half)
    assert {name: len(units) for name, units in choice.drop.items()} == {first: 8, second: 8}
    same = Uniform(ratio=0.25, among=r"^a\[0\]")(half)
    assert {name: len(units) for name, units in same.drop.items()} == {first: 4, second: 8}
