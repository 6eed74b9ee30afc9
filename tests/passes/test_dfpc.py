"""DFPC saliency, computed by hand; and a unit that is large and does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.model import load
from graphprune.state import State
from passes.dfpc import Dfpc
from passes.magnitude import Magnitude
from tests.law import net


def test_product_of_what_makes_and_what_reads() -> None:
    a = np.array([[1, -2, 0], [3, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    b = np.array([[1, -1], [2, 0]], np.float32).reshape(2, 2, 1, 1)
    scores = Dfpc()(State(load(net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", a=a, b=b)))).scores["a[0]"]
    assert scores == pytest.approx(np.array([3 * 3, 3 * 1]) / 6)


def test_padding_counts_for_nothing() -> None:
    """A 3x3 filter sees 2.75² = 7.5625 of 9 ones on average over 8x8 padded pixels; without padding all 9."""
    weights = {"a": np.ones((4, 3, 3, 3), np.float32), "d": (4, 3, 3, 3), "b": np.eye(4, dtype=np.float32)}
    weights["b"] = weights["b"].reshape(4, 4, 1, 1)
    weights["a"][1, :, 0] = weights["a"][1, :, 2] = 0  # only the middle row: padded above and below alike
    body = "t = Conv<pads=[1,1,1,1]>(x, a)\nu = Relu(t)\ny = Conv(u, b)"
    scores = Dfpc()(State(load(net(body, a=weights["a"], b=weights["b"])))).scores["a[0]"]
    assert scores[1] / scores[0] == pytest.approx(2.75 / 2.75**2)


def test_a_depthwise_filter_multiplies() -> None:
    d = np.array([2, 5, 0, 1], np.float32).reshape(4, 1, 1, 1)
    ones = {"a": np.ones((4, 3, 1, 1), np.float32), "b": np.ones((2, 4, 1, 1), np.float32)}
    scores = Dfpc()(State(load(net("t = Conv(x, a)\nu = Conv<group=4>(t, d)\ny = Conv(u, b)", d=d, **ones)))).scores
    assert scores["a[0]"] == pytest.approx(np.array([2, 5, 0, 1]) / 2)


def test_a_large_filter_that_nobody_reads_goes_first_and_magnitude_keeps_it() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 3, 3, 3)).astype(np.float32), rng.standard_normal((4, 8, 1, 1)).astype(np.float32)
    a[5] *= 10
    b[:, 5] = 0
    state = State(load(net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", a=a, b=b)))
    assert np.argmin(Dfpc()(state).scores["a[0]"]) == 5
    assert np.argmax(Magnitude()(state).scores["a[0]"]) == 5
