"""Prune, measure, ask again: targets are met from below, or the nearest value is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from graphprune.aiming import Aim, reach
from graphprune.errors import TargetNotReachedError


def aim(share: float, power: float) -> Aim:
    """What is measured bends away from what was asked for."""
    return Aim("latency", share, lambda asked: asked**power, lambda s: f"{s:.2f} ms")  # type: ignore[arg-type,operator]


def asked(shares: Mapping[str, float]) -> float:
    if shares["latency"] < 0.2:
        raise TargetNotReachedError("no more can go", nearest={"latency": 0.2})
    return shares["latency"]


@pytest.mark.parametrize("power", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("share", [0.7, 0.5])
def test_met_from_below_and_closely(share: float, power: float) -> None:
    made, found = reach([aim(share, power)], asked, lambda made: made)  # type: ignore[arg-type,return-value]
    assert 0.94 * share <= made**power <= 1.01 * share
    assert found == {"latency": made**power}


def test_the_nearest_is_told() -> None:
    with pytest.raises(
        TargetNotReachedError, match=r"no more can go; the nearest is 0.55 ms in place of 0.30"
    ) as caught:
        reach([aim(0.3, 0.5)], asked, lambda made: made)  # type: ignore[arg-type,return-value]
    assert caught.value.nearest["latency"] == pytest.approx(0.55, abs=0.01)
    assert caught.value.exit_code == 5
