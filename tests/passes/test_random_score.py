"""Random scores are reproducible."""

from __future__ import annotations

import numpy as np

from graphprune.model import load
from graphprune.state import State
from passes.random_score import RandomScore
from tests.law import net

STATE = State(
    load(net("t = Conv(x, a)\nu = Conv(t, d)\ny = Conv(u, b)", a=(6, 3, 1, 1), d=(5, 6, 1, 1), b=(2, 5, 1, 1)))
)


def test_seeds() -> None:
    first, again, other = (RandomScore(seed=s)(STATE).scores for s in (1, 1, 2))
    assert {n: v.shape for n, v in first.items()} == {"a[0]": (6,), "d[0]": (5,)}
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not np.array_equal(first["a[0]"], other["a[0]"])
    assert all((v >= 0).all() and (v < 1).all() for v in first.values())
