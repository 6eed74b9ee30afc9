"""Steps tell how far they are, parts of parts add up, and nobody has to watch."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.obs import Problem, remove_all
from graphprune.progress import track, watched


def test_nobody_watches():
    assert list(track("abc")) == ["a", "b", "c"]


def test_parts_of_parts_add_up():
    heard: list[float] = []
    with watched(heard.append):
        for part in track([2, 4]):
            assert sum(1 for _ in track(range(part))) == part
    assert heard == pytest.approx([0, 0, 0.25, 0.5, 0.5, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0])


def test_a_loop_that_is_left_leaves_the_watcher_as_it_was():
    heard: list[float] = []
    with watched(heard.append):
        for _ in track(range(10)):
            break
        list(track([]))
        list(track("a"))
    list(track("b"))
    assert heard == [0.0, 1.0, 0.0, 1.0]


def test_optimal_brain_surgeon_says_how_far_it_is():
    heard: list[float] = []
    with watched(heard.append):
        remove_all([Problem(np.ones((2, 4)), np.eye(4), np.arange(4)[:, None])])
    assert heard == [0, 0.25, 0.5, 0.75, 1]
