"""The same share of every group, at legal widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.state import State
from passes.uniform import Uniform
from tests.law import net

NET = net("t = Conv(x, a)\nu = Conv(t, d)\ny = Conv(u, b)", a=(16, 3, 1, 1), d=(10, 16, 1, 1), b=(2, 10, 1, 1))


def scored() -> State:
    state = State(load(NET))
    return replace(state, scores={g.name: np.arange(g.size)[::-1].astype(float) for g in state.groups})


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        ({"ratio": 0.5}, {"a[0]": 8, "d[0]": 5}),
        ({"ratio": 0.25}, {"a[0]": 4, "d[0]": 2}),
        ({"ratio": 0.0}, {}),
        ({"ratio": 0.99}, {"a[0]": 15, "d[0]": 9}),
        ({"ratio": 0.5, "multiple": 8}, {"a[0]": 8, "d[0]": 2}),
        ({"ratio": 0.6, "multiple": 4}, {"a[0]": 8, "d[0]": 6}),
    ],
)
def test_counts(options: dict[str, float], dropped: dict[str, int]) -> None:
    drop = Uniform(**options)(scored()).drop
    assert {n: len(u) for n, u in drop.items()} == dropped


def test_the_lowest_scores_go() -> None:
    assert Uniform(ratio=0.5)(scored()).drop["d[0]"].tolist() == [5, 6, 7, 8, 9]


def test_equal_scores_go_by_position() -> None:
    state = replace(scored(), scores={"a[0]": np.zeros(16), "d[0]": np.zeros(10)})
    assert Uniform(ratio=0.5)(state).drop["d[0]"].tolist() == [0, 1, 2, 3, 4]


def test_groups_without_scores_stay() -> None:
    state = scored()
    assert list(Uniform()(replace(state, scores={"d[0]": state.scores["d[0]"]})).drop) == ["d[0]"]


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"ratio": -0.1}, {"multiple": 0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Uniform(**options)
