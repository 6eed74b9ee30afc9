"""What is removed from a graph, and what is counted of it."""

from __future__ import annotations

import numpy as np

from benchmarks.removals import Law, tried
from graphprune.model import load
from tests.law import net

BODY = """
    a = MatMul(x, p)
    b = Relu(a)
    c = MatMul(b, q)
    d = Add(x, c)
    e = MatMul(d, r)
    f = Add(d, e)
    y = Tanh(f)
"""


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def test_every_branch_goes_by_itself_and_some_go_together() -> None:
    model = load(net(BODY, inputs="float[N,8] x", p=weights(8, 6), q=weights(6, 8), r=weights(8, 8)))
    row = tried("two", model)
    assert row.layers is not None
    assert (row.layers.found, row.layers.removals, row.layers.noticed) == (2, 2, 2)
    assert row.layers.error < 1e-6
    assert row.experts is None


def test_a_branch_that_nobody_notices_is_counted_as_such() -> None:
    model = load(net(BODY, inputs="float[N,8] x", p=weights(8, 6), q=weights(6, 8), r=np.zeros((8, 8), np.float32)))
    assert tried("one", model).layers == Law(2, 2, 1, 0.0)
