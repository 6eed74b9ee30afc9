"""Layers chosen by what their removal does to the outputs, or by what they do to their input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.model import load
from graphprune.proof import seeded_inputs
from graphprune.state import State
from passes.choose_layers import ChooseLayers
from tests.law import draw, net
from tests.test_branches import SIZES, transformer

RNG = np.random.default_rng(0)


def chain(*sizes: float) -> State:
    """Residual convolutions whose outputs have these sizes."""
    lines, weights = [], {}
    for k, size in enumerate(sizes):
        weights[f"w{k}"] = size * draw(np.random.default_rng(k), (6, 6, 1, 1))
        lines.append(f"f{k} = Conv({'x' if not k else f's{k - 1}'}, w{k})")
        lines.append(f"s{k} = Add({'x' if not k else f's{k - 1}'}, f{k})")
    lines.append(f"y = Relu(s{len(sizes) - 1})")
    return State(load(net("\n".join(lines), inputs="float[1,6,5,5] x", **weights)))


@pytest.mark.parametrize("by", ["output", "influence"])
def test_the_smallest_go_first(by: str) -> None:
    state = ChooseLayers(count=2, by=by)(chain(1.0, 0.02, 0.7, 0.1))
    assert state.layers == ("s1", "s3")
    assert 0 < state.data["layers"]["s1"] < state.data["layers"]["s3"] < 0.1
    assert state.data["notes"][-1].startswith("2 of 4 layers removed, in this order: s1 (0.000")


def test_a_share_of_the_layers() -> None:
    assert ChooseLayers(count=0.5)(chain(1.0, 0.02, 0.7, 0.1)).layers == ("s1", "s3")
    assert len(ChooseLayers(count=1.0)(chain(1.0, 0.02, 0.7, 0.1)).layers) == 4


def test_what_is_measured_anew_makes_a_difference() -> None:
    """Two branches undo each other: without the one, the other is no longer small."""
    w = draw(np.random.default_rng(0), (6, 6, 1, 1))
    body = "f = Conv(x, w)\ns = Add(x, f)\ng = Conv(s, v)\nt = Add(s, g)\nh = Conv(t, u)\ny = Add(t, h)"
    inverse = np.linalg.inv(np.eye(6) + w[:, :, 0, 0]) - np.eye(6)
    undone = inverse[:, :, None, None].astype(np.float32)
    small = 0.4 * draw(np.random.default_rng(1), (6, 6, 1, 1))
    state = State(load(net(body, inputs="float[1,6,5,5] x", w=w, v=undone, u=small)))
    assert set(ChooseLayers(count=3)(state).layers) == {"s", "t", "y"}
    assert ChooseLayers(count=1)(state).layers == ("y",)
    scores = ChooseLayers(count=3)(state).data["layers"]
    last = list(scores)[-1]
    assert scores[last] < 0.1 < max(scores.values())  # with both gone the net is what it was, less the small one


def test_kinds_and_blocks() -> None:
    state = State(load(transformer(), dim_params=SIZES))
    assert set(ChooseLayers(count=2, of="attention")(state).layers) == {"m0", "m1"}
    assert set(ChooseLayers(count=2, of="feed-forward")(state).layers) == {"h1", "h2"}
    for by in ("output", "influence"):
        assert ChooseLayers(count=1, of="block", by=by)(state).layers in (("m0", "h1"), ("m1", "h2"))
    assert ChooseLayers(count=1, of="attention")(replace(state, exclude=("m0",))).layers == ("m1",)


def test_real_inputs_are_used_where_they_are_asked_for() -> None:
    state = chain(1.0, 0.5)
    given = {name: np.concatenate([x] * 3) for name, x in seeded_inputs(state.model).items()}
    with pytest.raises(UsageError, match="real inputs"):
        ChooseLayers(given=True)(state)
    found = ChooseLayers(given=True)(replace(state, data={"inputs": given})).data["layers"]
    assert found != ChooseLayers()(state).data["layers"]


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1.5}, {"count": -0.5}, {"by": "name"}, {"of": "network"}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ChooseLayers(**options)  # type: ignore[arg-type]


def test_more_layers_than_there_are() -> None:
    with pytest.raises(TargetNotReachedError, match="has 2 layers to choose from, not 3"):
        ChooseLayers(count=3)(chain(1.0, 1.0))
    with pytest.raises(NothingToPruneError, match="no layer to remove"):
        ChooseLayers()(State(load(net("y = Conv(x, a)", a=(4, 3, 1, 1)))))
