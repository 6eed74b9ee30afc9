"""Logits that the dimensions left can make are made; what cannot be folded is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.pipeline import parse
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from passes.compensate import Compensate
from tests.law import net

ONE = """
    q0 = MatMul(x, wq) {bias}
    k = MatMul(x, wk)
    kt = Transpose<perm=[0,2,1]>(k)
    s = MatMul(q, kt)
    scaled = Div(s, scale)
    p = Softmax<axis=-1>(scaled)
    v = MatMul(x, wv)
    a = MatMul(p, v)
    y = MatMul(a, wo)
"""


def attention(*, rank: int = 4, bias: bool = True) -> Model:
    """One head of eight dimensions of which the last four are made of the first, in queries and in keys."""
    rng = np.random.default_rng(0)
    queries, keys = (
        rng.standard_normal((6, rank)) @ np.c_[np.eye(rank), rng.standard_normal((rank, 8 - rank))] for _ in "qk"
    )
    weights = {"wq": queries, "wk": keys, "wv": rng.standard_normal((6, 8)), "wo": rng.standard_normal((8, 5))}
    weights |= {"bq": rng.standard_normal(4) @ queries[:4] if bias else np.zeros(8), "scale": np.array(2.8)}
    body = ONE.format(bias="q = Add(q0, bq)" if bias else "q = Identity(q0)")
    return load(net(body, inputs="float[1,7,6] x", **{n: w.astype(np.float32) for n, w in weights.items()}))


def cut(model: Model, *passes: str) -> State:
    """Without the last four dimensions of queries and keys."""
    state = State(model)
    for step in parse("calibrate(count=64)"):
        state = step.run(state)
    group = next(g for g in state.groups if any(d.tensor == "wq" for d in g.labels))
    state = replace(state, drop={group.name: np.arange(4, 8)})
    for step in parse(", ".join(["cut", *passes])):
        state = step.run(state)
    return state


def pruned(model: Model, *passes: str) -> Model:
    """The model of that."""
    return cut(model, *passes).model


def apart(model: Model, small: Model) -> float:
    """The largest difference of outputs, as a share of the largest output."""
    inputs = seeded_inputs(model, 5)
    wanted, got = (Runner(m)(inputs)["y"] for m in (model, small))
    return float(np.abs(wanted - got).max() / np.abs(wanted).max())


@pytest.mark.parametrize("bias", [True, False])
def test_dimensions_made_of_others_are_made_up_for(bias: bool) -> None:
    model = attention(bias=bias)
    assert apart(model, pruned(model)) > 0.05
    assert apart(model, pruned(model, "compensate(damp=1e-9)")) < 1e-4


def test_what_cannot_be_made_is_made_as_well_as_it_can_be() -> None:
    model = attention(rank=8)
    assert apart(model, pruned(model, "compensate")) < apart(model, pruned(model))


def test_uncalibrated_layers_are_an_error_and_no_cut_changes_nothing() -> None:
    with pytest.raises(UsageError, match="compensate needs calibrated layers"):
        Compensate()(State(attention()))
    state = State(attention())
    for step in parse("calibrate(count=4)"):
        state = step.run(state)
    assert Compensate()(state) is state


def test_moments_that_were_not_measured_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model whose moments take too much memory, queries and keys have none where other layers lose inputs."""
    monkeypatch.setattr("graphprune.calibration.HELD_MOMENTS", 1)
    model = attention()
    assert apart(pruned(model), pruned(model, "compensate")) == 0
    *_, note = cut(model, "compensate").data["notes"]
    assert note == "1 products of queries and keys stay as they are: moments of their inputs were not measured"
