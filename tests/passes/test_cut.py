"""The pass that removes what was chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.errors import NothingToPruneError
from graphprune.model import load
from graphprune.state import State
from passes.cut import Cut
from tests.law import net

NET = net("t = Conv(x, a)\ny = Conv(t, b)", a=(6, 3, 1, 1), b=(2, 6, 1, 1))


def test_slices_every_tensor_and_consumes_the_choice() -> None:
    state = State(load(NET), scores={"a[0]": np.ones(6)}, drop={"a[0]": np.array([1, 4])})
    after = Cut()(state)
    assert {n: tuple(c.shape) for n, c in after.model.constants.items()} == {"a": (4, 3, 1, 1), "b": (2, 4, 1, 1)}
    kept = [0, 2, 3, 5]
    assert np.array_equal(after.model.constants["a"].values, state.model.constants["a"].values[kept])
    assert np.array_equal(after.model.constants["b"].values, state.model.constants["b"].values[:, kept])
    assert (after.scores, after.drop) == ({}, {})
    assert state.model.constants["a"].shape == (6, 3, 1, 1)


def test_an_empty_choice_keeps_the_model() -> None:
    state = State(load(NET), drop={"a[0]": np.array([], np.int64)})
    assert Cut()(state).model is state.model


def test_nothing_to_prune() -> None:
    pinned = State(load(net("y = Conv(x, a)", a=(6, 3, 1, 1))))
    with pytest.raises(NothingToPruneError, match="every axis is pinned") as caught:
        Cut()(pinned)
    assert caught.value.exit_code == 4
    with pytest.raises(NothingToPruneError):
        Cut()(replace(State(load(NET)), exclude=(".",)))
