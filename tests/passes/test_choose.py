"""One ranking over all groups until a target is met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.cost import CostModel
from graphprune.cut import cut, gone
from graphprune.errors import TargetNotReachedError, UsageError
from graphprune.model import Model, load
from graphprune.state import State
from passes.choose import Choose
from passes.magnitude import Magnitude
from tests.law import net

CHAIN = net("t = Conv(x, a)\nu = Conv(t, d)\ny = Conv(u, b)", a=(16, 3, 1, 1), d=(24, 16, 1, 1), b=(2, 24, 1, 1))
# Two branches meet in a Concat, whose other part is the image.
MEETING = net(
    "t = Conv(x, a)\ns = Conv(x, d)\nu = Concat<axis=1>(t, s)\nv = Conv(u, e)\ny = Conv(v, b)",
    a=(16, 3, 1, 1),
    d=(24, 3, 1, 1),
    e=(32, 40, 1, 1),
    b=(2, 32, 1, 1),
)


def scored(proto: object, seed: int = 0) -> State:
    state = State(load(proto))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    return replace(state, scores={g.name: rng.random(g.size) for g in state.groups})


def small(state: State) -> Model:
    return cut(state.model, gone(state.groups, state.drop))


@pytest.mark.parametrize(("option", "field"), [("macs", "macs"), ("params", "parameters")])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("proto", [CHAIN, MEETING], ids=["chain", "concat"])
def test_targets_are_met_and_hardly_overshot(proto: object, option: str, field: str, share: float) -> None:
    state = Choose(**{option: share})(scored(proto))
    before, after = (getattr(CostModel(m).at(), field) for m in (state.model, small(state)))
    assert after <= share * before
    assert after > (share - 0.1) * before


def test_the_weakest_of_all_groups_go_first() -> None:
    state = scored(CHAIN)
    scores = {"a[0]": np.r_[np.zeros(4), np.ones(12)], "d[0]": np.full(24, 2.0)}
    drop = Choose(params=0.85)(replace(state, scores=scores)).drop
    assert list(drop) == ["a[0]"]
    assert set(drop["a[0]"]) <= {0, 1, 2, 3}


@pytest.mark.parametrize("multiple", [2, 4, 8])
@pytest.mark.parametrize("proto", [CHAIN, MEETING], ids=["chain", "concat"])
def test_every_cut_axis_is_a_multiple(proto: object, multiple: int) -> None:
    state = Choose(params=0.6, multiple=multiple)(scored(proto))
    assert state.drop
    going = gone(state.groups, state.drop)
    assert all(int((~mask).sum()) % multiple == 0 for mask in going.values())
    after = small(state)
    assert all(after.shapes[dim.tensor][dim.axis] % multiple == 0 for dim in going if dim.tensor in after.shapes)


def test_a_multiple_that_a_concat_cannot_keep_leaves_it_alone() -> None:
    """The image's 3 channels in the Concat stay, so no width of the others makes a multiple of 8."""
    odd = net(
        "t = Conv(x, a)\nu = Concat<axis=1>(x, t)\nv = Conv(u, e)\ny = Conv(v, b)",
        a=(16, 3, 1, 1),
        e=(32, 19, 1, 1),
        b=(2, 32, 1, 1),
    )
    assert list(Choose(params=0.7, multiple=8)(scored(odd)).drop) == ["e[0]"]


def test_the_floor_holds() -> None:
    state = scored(CHAIN)
    scores = {"a[0]": np.zeros(16), "d[0]": np.ones(24)}
    drop = Choose(params=0.4, floor=0.5)(replace(state, scores=scores)).drop
    assert len(drop["a[0]"]) == 8
    assert 1 <= len(drop["d[0]"]) <= 12


def test_no_target_drops_nothing() -> None:
    assert Choose()(scored(CHAIN)).drop == {}


@pytest.mark.parametrize("options", [{"macs": 0.01}, {"params": 0.3, "floor": 0.9}, {"params": 0.5, "multiple": 64}])
def test_what_cannot_be_reached_says_how_far_it_goes(options: dict[str, float]) -> None:
    with pytest.raises(TargetNotReachedError, match=r"at most .*% of the MACs and .*% of the parameters") as caught:
        Choose(**options)(scored(CHAIN))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("options", [{"macs": 0}, {"params": 1.5}, {"floor": -1}, {"multiple": 0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Choose(**options)


def test_groups_that_must_go_together_may_meet_the_target_at_once() -> None:
    # Twelve channels each, side by side on one axis: at multiples of 8 both go to eight or none is cut.
    proto = net(
        "a = Conv(x, v)\nb = Conv(x, w)\nc = Concat<axis=1>(a, b)\ny = Conv(c, u)",
        v=(12, 3, 1, 1),
        w=(12, 3, 1, 1),
        u=(4, 24, 1, 1),
    )
    state = Magnitude()(State(load(proto)))
    drop = Choose(macs=0.9, multiple=8)(state).drop
    assert {name: len(units) for name, units in drop.items()} == {"v[0]": 4, "w[0]": 4}
    assert Choose(multiple=8)(state).drop == {}
