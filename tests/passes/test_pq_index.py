"""PQ indices by hand, and ratios that follow them to a target."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cost import CostModel
from graphprune.errors import TargetNotReachedError, UsageError
from graphprune.model import load
from graphprune.state import State
from passes.pq_index import PqIndex
from tests.law import net

CHAIN = net("t = Conv(x, a)\nu = Conv(t, d)\ny = Conv(u, b)", a=(32, 3, 1, 1), d=(32, 32, 1, 1), b=(2, 32, 1, 1))


def scored() -> State:
    """Importance is spread evenly in the first group; in the second, four units hold most."""
    few = np.linspace(0.01, 0.02, 32)
    few[[3, 9, 17, 30]] = [5, 6, 7, 8]
    return State(load(CHAIN), scores={"a[0]": np.linspace(1, 1.1, 32), "d[0]": few})


@pytest.mark.parametrize(
    ("scores", "share"), [(np.ones(7), 1.0), (np.eye(8)[3], 1 / 8), (np.r_[np.ones(2), np.zeros(6)], 2 / 8)]
)
def test_the_share_is_that_of_the_units_that_matter(scores: np.ndarray, share: float) -> None:
    assert PqIndex().spread(scores) == pytest.approx(share)
    assert PqIndex().spread(100 * scores) == pytest.approx(share)


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_concentrated_group_gives_more_and_keeps_what_matters(share: float) -> None:
    state = scored()
    drop = PqIndex(macs=share)(state).drop
    assert len(drop["d[0]"]) > 2 * len(drop.get("a[0]", ()))
    assert not {3, 9, 17, 30} & {*drop["d[0]"].tolist()}
    cost = CostModel(state.model, state.groups)
    kept = cost.at({name: len(units) for name, units in drop.items()}).macs / cost.at().macs
    assert share - 0.1 < kept <= share


def test_limits() -> None:
    assert PqIndex()(scored()).drop == {}
    with pytest.raises(TargetNotReachedError):
        PqIndex(macs=0.01)(scored())
    with pytest.raises(UsageError):
        PqIndex(macs=0.5, p=1, q=0.5)
