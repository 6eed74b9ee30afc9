"""Filters that are combinations of others can be delivered by them; what cannot be is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.model import load
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from passes.lbyl import Lbyl
from tests.law import net

BODY = "t = Conv<pads=[1,1,1,1]>(x, a)\nn = BatchNormalization(t, s, o, m, v)\n{act}y = Conv(n, b)"


def dropped(body: str, drop: list[int], **weights: np.ndarray) -> tuple[State, State]:
    """A state about to lose units, before and after."""
    state = State(load(net(body, **weights)))
    state = replace(state, drop={state.groups[0].name: np.array(drop)})
    return state, Lbyl(shift=1e-9, size=1e-12)(state)


def planted() -> dict[str, np.ndarray]:
    """Filter 3 is 2 · filter 0 − filter 1, and its normalisation keeps that a combination."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    a[3] = 2 * a[0] - a[1]
    s, v = rng.uniform(0.5, 2, 4).astype(np.float32), rng.uniform(0.5, 2, 4).astype(np.float32)
    m, o = rng.standard_normal(4).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    middle = (m - o * np.sqrt(v + 1e-5) / s)[:3]  # a_k: where the normalised output is 0
    m[3] = 2 * middle[0] - middle[1] + o[3] * np.sqrt(v[3] + 1e-5) / s[3]
    return {"a": a, "s": s, "o": o, "m": m, "v": v, "b": rng.standard_normal((2, 4, 1, 1)).astype(np.float32)}


def test_a_combination_is_delivered_exactly() -> None:
    before, after = dropped(BODY.format(act=""), [3], **planted())
    small, _ = run(after, parse("cut"))
    inputs = seeded_inputs(before.model, 0)
    wanted, got = Runner(before.model)(inputs)["y"], Runner(small.model)(inputs)["y"]
    assert small.model.constants["b"].shape == (2, 3, 1, 1)
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_without_it_the_same_cut_is_far_off() -> None:
    before, _ = dropped(BODY.format(act=""), [3], **planted())
    small, _ = run(before, parse("cut"))
    inputs = seeded_inputs(before.model, 0)
    wanted, got = Runner(before.model)(inputs)["y"], Runner(small.model)(inputs)["y"]
    assert np.abs(got - wanted).max() > 0.1 * np.abs(wanted).max()


def test_a_duplicate_behind_a_relu_is_delivered_too() -> None:
    weights = planted()
    weights["a"][3] = np.random.default_rng(2).standard_normal((3, 3, 3))  # no combination any more
    for part in ("a", "s", "o", "m", "v"):
        weights[part][2] = weights[part][0]
    body = BODY.format(act="r = Relu(n)\n").replace("Conv(n, b)", "Conv(r, b)")
    before, after = dropped(body, [2], **weights)
    small, _ = run(after, parse("cut"))
    inputs = seeded_inputs(before.model, 0)
    wanted, got = Runner(before.model)(inputs)["y"], Runner(small.model)(inputs)["y"]
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_readers_behind_a_flatten_take_over_pixel_by_pixel() -> None:
    weights = planted() | {"b": np.random.default_rng(1).standard_normal((256, 5)).astype(np.float32)}
    body = BODY.format(act="f = Flatten(n)\n").replace("Conv(n, b)", "MatMul(f, b)")
    before, after = dropped(body, [3], **weights)
    small, _ = run(after, parse("cut"))
    inputs = seeded_inputs(before.model, 0)
    wanted, got = Runner(before.model)(inputs)["y"], Runner(small.model)(inputs)["y"]
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_groups_without_a_normalisation_are_left_and_noted() -> None:
    before, after = dropped("t = Conv(x, a)\ny = Conv(t, b)", [1], a=(4, 3, 1, 1), b=(2, 4, 1, 1))  # type: ignore[arg-type]
    assert after.model.constants["b"].values == pytest.approx(before.model.constants["b"].values)
    assert after.data["notes"] == ("lbyl leaves 1 groups as they are: no single convolution with BatchNorm",)
