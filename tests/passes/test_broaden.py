"""What pictures add to the moments that layers are refitted to, on nets small enough to look at every position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphprune.passes import broaden

from graphprune.calibration.activations import Inputs, batched, synthetic
from graphprune.calibration.activations import run as values_of
from graphprune.calibration.noise import PICTURES
from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.pipeline import parse, run
from graphprune.state import State
from tests.law import net

BODY = "t = Conv(x, a)\nz = BatchNormalization(t, s, e, m, n)\nu = Relu(z)\nv = Conv(u, b)\nw = Relu(v)\ny = Conv(w, c)"
CUT = "fold_batchnorm, calibrate(count=8), obs, uniform(ratio=0.5, multiple=1), cut"


def convolutions(mean: float = 0.0, body: str = BODY) -> Model:
    """Three convolutions, and a BatchNormalization that remembers a mean of its input."""
    norm = {"s": 1.0, "e": 0.0, "m": mean, "n": 3.0}
    values = {name: np.full(16, value, np.float32) for name, value in norm.items() if name in body.split("z", 1)[-1]}
    rng = np.random.default_rng(0)
    shapes = {"a": (16, 3, 1, 1), "b": (16, 16, 1, 1), "c": (4, 16, 1, 1)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return load(net(body, **weights, **values))


def moments(u: np.ndarray) -> np.ndarray:
    rows = np.concatenate([np.moveaxis(u, 1, -1).reshape(-1, 16), np.ones((u.size // 16, 1))], axis=1)
    return rows.T.astype(np.float64) @ rows / len(rows)


def test_pictures_have_their_share():
    plain = BODY.replace("z = BatchNormalization(t, s, e, m, n)\nu = Relu(z)", "u = Relu(t)")
    model = convolutions(body=plain)
    before, _ = run(State(model), parse(CUT))
    after, _ = run(before, parse("broaden(share=0.25, count=8, seed=3)"))
    kinds = [synthetic(batched(model), kind, 8, 4, (-2, 2)) for kind in PICTURES]
    wanted = np.mean([moments(next(iter(values_of(batched(model), ["u"], x)))["u"]) for x in kinds], axis=0)
    old, new = (s.data["calibration"].moments["b"].second[0] for s in (before, after))
    assert new == pytest.approx(0.75 * old + 0.25 * wanted, rel=1e-5, abs=1e-6)
    assert np.abs(new / old - 1).max() > 0.01


@pytest.mark.parametrize(("mean", "runs"), [(0.0, 6), (100.0, 3)])
def test_pictures_far_off_what_is_remembered_are_only_used_scaled(mean, runs, monkeypatch):
    asked: list[Inputs] = []
    original = broaden.sampled

    def counting(model, found, inputs, seed):
        asked.append(inputs)
        return original(model, found, inputs, seed)

    before, _ = run(State(convolutions(mean)), parse(CUT))
    monkeypatch.setattr(broaden, "sampled", counting)
    run(before, parse("broaden"))
    assert len(asked) == runs


def test_only_layers_that_lost_inputs_change():
    state = State(convolutions(), exclude=["^a"])
    before, _ = run(state, parse(CUT))
    after, _ = run(before, parse("broaden"))
    changed = {
        name
        for name, now in after.data["calibration"].moments.items()
        if not np.array_equal(now.second, before.data["calibration"].moments[name].second)
    }
    assert changed == {"c"}


def test_what_has_better_inputs_keeps_them():
    """Real ones, or none of images; nor is anything done where nothing was cut."""
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    real, _ = run(State(convolutions(), data={"inputs": {"x": x}}), parse(CUT.replace("count=8", "given=True")))
    words = load(net("t = MatMul(x, a)\nu = Relu(t)\ny = MatMul(u, b)", inputs="float[1,6] x", a=(6, 16), b=(16, 4)))
    whole, _ = run(State(convolutions()), parse("fold_batchnorm, calibrate(count=8)"))
    for state in (real, run(State(words), parse(CUT))[0], whole):
        assert run(state, parse("broaden"))[0] is state


def test_moments_that_are_not_finite_are_left_out(monkeypatch):
    before, _ = run(State(convolutions()), parse(CUT))
    original = broaden.sampled

    def broken(*asked):
        return {n: replace(m, second=np.full_like(m.second, np.nan)) for n, m in original(*asked).items()}

    monkeypatch.setattr(broaden, "sampled", broken)
    after, _ = run(before, parse("broaden"))
    for name, old in before.data["calibration"].moments.items():
        assert after.data["calibration"].moments[name] is old


def test_a_replay_runs_it():
    _, records = run(State(convolutions()), parse(f"{CUT}, broaden"))
    assert records[-1].prepares


def test_layers_that_were_not_calibrated():
    with pytest.raises(UsageError, match="broaden needs calibrated layers"):
        run(State(convolutions()), parse("magnitude, uniform(ratio=0.5), cut, broaden"))
