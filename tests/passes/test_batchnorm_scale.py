"""Network slimming scores, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.model import load
from graphprune.state import State
from passes.batchnorm_scale import BatchnormScale
from tests.law import net

REST = {"o": (4,), "m": (4,), "v": np.ones(4, np.float32)}
SCALE = np.array([1, -2, 0, 0.5], np.float32)


def test_absolute_scale() -> None:
    body = "t = Conv(x, a)\nn = BatchNormalization(t, s, o, m, v)\ny = Conv(n, b)"
    scores = BatchnormScale()(State(load(net(body, a=(4, 3, 1, 1), b=(2, 4, 1, 1), s=SCALE, **REST)))).scores
    assert {n: v.tolist() for n, v in scores.items()} == {"a[0]": [1, 2, 0, 0.5]}


def test_mean_over_several_normalisations() -> None:
    body = (
        "t = Conv(x, a)\nn = BatchNormalization(t, s, o, m, v)\n"
        "u = Conv(x, d)\nq = BatchNormalization(u, r, o, m, v)\nw0 = Add(n, q)\ny = Conv(w0, b)"
    )
    weights = {"a": (4, 3, 1, 1), "d": (4, 3, 1, 1), "b": (2, 4, 1, 1), "r": np.full(4, 3, np.float32)}
    scores = BatchnormScale()(State(load(net(body, s=SCALE, **weights, **REST)))).scores
    assert scores["a[0]"] == pytest.approx([2, 2.5, 1.5, 1.75])


def test_groups_without_a_normalisation_are_left_alone() -> None:
    body = "t = Conv(x, a)\ny = Conv(t, b)"
    assert BatchnormScale()(State(load(net(body, a=(4, 3, 1, 1), b=(2, 4, 1, 1))))).scores == {}
