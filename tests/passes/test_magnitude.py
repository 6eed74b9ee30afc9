"""Magnitude scores, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.model import load
from graphprune.state import State
from passes.magnitude import Magnitude
from tests.law import net

A = np.array([[1, -3], [2, 2], [0, 0]], np.float32).T  # [2 inputs, 3 units]
B = np.array([[1], [4], [0]], np.float32)  # [3 units, 1 output]
NET = net("t = MatMul(x, a)\ny = MatMul(t, b)", inputs="float[1,2] x", a=A, b=B)


@pytest.mark.parametrize(
    ("power", "means"),
    # A unit owns a column of a and a row of b: |1| + |-3| + |1|, |2| + |2| + |4|, 0.
    [(1.0, [5 / 3, 8 / 3, 0]), (2.0, [11 / 3, 24 / 3, 0])],
)
def test_mean_over_all_coupled_weights_relative_to_the_group(power: float, means: list[float]) -> None:
    scores = Magnitude(power=power)(State(load(NET))).scores
    assert list(scores) == ["a[1]"]
    assert scores["a[1]"] == pytest.approx(np.array(means) / np.mean(means))


def test_a_unit_with_several_positions_counts_them_all() -> None:
    a = np.ones((2, 3, 1, 1), np.float32)
    w = np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)  # two filters for each channel
    b = np.zeros((1, 4, 1, 1), np.float32)
    body = "t = Conv(x, a)\nu = Conv<group=2>(t, w)\ny = Conv(u, b)"
    (scores,) = Magnitude(power=1)(State(load(net(body, a=a, w=w, b=b)))).scores.values()
    # 3 ones, filters 1 and 2 (3 and 4), and 2 zeros: 7 parameters in each unit.
    means = np.array([(3 + 1 + 2) / 7, (3 + 3 + 4) / 7])
    assert scores == pytest.approx(means / means.mean())


def test_a_group_of_zeros_scores_zero() -> None:
    zero = net("t = MatMul(x, a)\ny = MatMul(t, b)", inputs="float[1,2] x", a=A * 0, b=B * 0)
    assert Magnitude()(State(load(zero))).scores["a[1]"].tolist() == [0, 0, 0]


def test_excluded_groups_get_no_score() -> None:
    assert Magnitude()(State(load(NET), exclude=("^b",))).scores == {}
