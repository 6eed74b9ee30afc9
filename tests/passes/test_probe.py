"""Error curves against what losing units does to the outputs, on nets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.calibration.activations import batched
from graphprune.calibration.activations import run as values_of
from graphprune.calibration.statistics import LEAST, mismatch
from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.pipeline import parse, run
from graphprune.state import State
from tests.law import net

FAINT = 0.1
TEXT = """
t = Conv(x, a)
u = Relu(t)
p = Conv(u, b)
v = Conv(x, a2)
w = Relu(v)
q = Conv(w, b2)
r = Mul(q, f)
y = Add(p, r)
"""


def branches(text: str = TEXT, **weights: np.ndarray) -> Model:
    """Two branches alike, of which one arrives at the output a tenth as large."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 3, 3, 3), (4, 16, 1, 1)))
    return load(net(text, **{"a": a, "b": b, "a2": a, "b2": b, "f": np.array(FAINT, np.float32), **weights}))


def scored(model: Model, then: str = "") -> State:
    return run(State(model), parse(f"calibrate(count=8), obs{then}"))[0]


def test_a_group_that_the_output_hardly_shows_costs_less():
    before, after = (scored(branches(), then) for then in ("", ", probe"))
    loud, faint = (next(g.name for g in before.groups if g.name.startswith(name)) for name in ("a[", "a2["))
    assert before.scores[faint] == pytest.approx(before.scores[loud], rel=0.2)
    factors = {name: after.scores[name] / before.scores[name] for name in (loud, faint)}
    for each in factors.values():  # one factor for a curve, so that the order of its units stays
        assert each == pytest.approx(each[0], rel=1e-9)
    assert factors[faint][0] / factors[loud][0] == pytest.approx(FAINT**2, rel=0.5)


def test_noise_far_off_what_batch_normalization_remembers_has_no_say():
    """Statistics that no noise comes near leave the curves as they are."""
    values = {"s": 1.0, "e": 0.0, "m": 1e4, "n": 1e-4}
    text = TEXT.replace("u = Relu(t)", "z = BatchNormalization(t, s, e, m, n)\nu = Relu(z)")
    state = State(branches(text, **{name: np.full(16, value, np.float32) for name, value in values.items()}))
    before, _ = run(state, parse("fold_batchnorm, calibrate(count=8), obs"))
    after, _ = run(before, parse("probe"))
    for name, scores in before.scores.items():
        assert np.array_equal(after.scores[name], scores)


def test_models_without_images_keep_their_curves():
    model = load(net("t = MatMul(x, a)\nu = Relu(t)\ny = MatMul(u, b)", inputs="float[1,6] x", a=(6, 16), b=(16, 4)))
    before, after = (scored(model, then) for then in ("", ", probe"))
    assert {n: s.tolist() for n, s in after.scores.items()} == {n: s.tolist() for n, s in before.scores.items()}


def test_the_same_twice():
    a, b = (scored(branches(), ", probe(seed=3)").scores for _ in range(2))
    assert {n: s.tolist() for n, s in a.items()} == {n: s.tolist() for n, s in b.items()}


def test_layers_that_were_not_calibrated():
    with pytest.raises(UsageError, match="probe needs calibrated layers"):
        run(State(branches()), parse("magnitude, probe"))


def test_mismatch_is_the_squared_distance_of_means_and_spreads():
    model = batched(load(net("y = Conv(x, a)", a=(5, 3, 1, 1))))
    x = {"x": np.random.default_rng(1).standard_normal((40, 3, 8, 8)).astype(np.float32)}
    y = next(iter(values_of(model, ["y"], x)))["y"].astype(np.float64)
    had = {"mean": y.mean((0, 2, 3)), "std": y.std((0, 2, 3))}
    assert mismatch(model, {"y": had}, x) == pytest.approx(0, abs=1e-9)
    off = {"mean": had["mean"] + 3 * had["std"], "std": had["std"]}
    assert mismatch(model, {"y": off}, x) == pytest.approx(9, rel=1e-6)
    wide = {"mean": had["mean"], "std": 2 * had["std"]}
    assert mismatch(model, {"y": wide}, x) == pytest.approx(0.25, rel=1e-6)
    dead = {"mean": had["mean"], "std": np.where(np.arange(5) == 0, 0.0, had["std"])}
    usual = np.median(dead["std"])
    assert mismatch(model, {"y": dead}, x) == pytest.approx((had["std"][0] / (LEAST * usual)) ** 2 / 5, rel=1e-6)


def test_what_a_softmax_does_not_see_costs_nothing():
    """A group whose loss moves all logits alike, beside one that moves them apart."""
    text = TEXT.replace("y = Add(p, r)", "s = Add(p, r)\ng = GlobalAveragePool(s)\nl = Flatten(g)\ny = Softmax(l)")
    alike = np.ones((4, 1, 1, 1), np.float32) * np.random.default_rng(1).standard_normal((1, 16, 1, 1))
    model = branches(text, b2=alike.astype(np.float32), f=np.array(1, np.float32))
    before, after = (scored(model, then) for then in ("", ", probe"))
    apart, together = (next(g.name for g in before.groups if g.name.startswith(name)) for name in ("a[", "a2["))
    factors = {name: after.scores[name][0] / before.scores[name][0] for name in (apart, together)}
    assert factors[together] < 1e-2 * factors[apart]
