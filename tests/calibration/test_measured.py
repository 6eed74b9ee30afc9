"""Second moments against all rows at once, on nets small enough for every position to be looked at."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.calibration import layers, measured
from graphprune.calibration.activations import batched, run
from graphprune.calibration.measured import sampled
from graphprune.model import Model, load
from tests.law import net


@pytest.fixture
def model() -> Model:
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((5, 3, 3, 3)), "b": rng.standard_normal((4, 5, 1, 1))}
    text = "t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)"
    return batched(load(net(text, **{name: w.astype(np.float32) for name, w in weights.items()})))


def drawn(model: Model, count: int) -> dict[str, np.ndarray]:
    (name, shape), *_ = model.input_shapes.items()
    return {name: np.random.default_rng(1).standard_normal((count, *shape[1:])).astype(np.float32)}


@pytest.mark.parametrize("block", [2, 7, 1536])
def test_moments_are_those_of_all_positions(model, monkeypatch, block):
    monkeypatch.setattr(measured, "BLOCK", block)
    inputs = drawn(model, 3)
    found = layers(model)[0]
    moments = sampled(model, found, inputs, seed=0)
    (values,) = run(model, ["u", "y"], inputs)
    for name, at in (("a", "x"), ("b", "u")):
        layer = found[name][1]
        (rows,) = layer.unfold(values[at], np.arange(layer.positions(values[at].shape)))
        rows = np.c_[rows, np.ones(len(rows))].astype(np.float64)
        assert moments[name].count == len(rows)
        np.testing.assert_allclose(moments[name].second[0], rows.T @ rows / len(rows), rtol=1e-12, atol=1e-12)
    y = np.moveaxis(values["y"], 1, -1).reshape(-1, 4)
    np.testing.assert_allclose(moments["b"].covariance, np.cov(y.T, bias=True), rtol=1e-5)


def test_many_layers_at_a_time_have_the_same_moments(model, monkeypatch):
    inputs, found = drawn(model, 200), layers(model)[0]
    one, many = [], []
    for threads, into in ((1, one), (4, many)):
        monkeypatch.setattr(measured, "THREADS", threads)
        into += sampled(model, found, inputs, seed=0).items()
    for (name, a), (other, b) in zip(one, many, strict=True):
        assert (name, a.count) == (other, b.count)
        assert np.array_equal(a.second, b.second)
        assert np.array_equal(a.covariance, b.covariance)
