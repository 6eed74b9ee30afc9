"""Rotations change nothing, sort channels by what flows through them, and refuse what they would change."""

from __future__ import annotations

import numpy as np
import pytest

import graphprune
from graphprune.errors import NothingToPruneError, UsageError
from graphprune.fidelity import measure
from graphprune.model import load
from graphprune.pipeline import parse, run
from graphprune.plan.merge import merge
from graphprune.plan.transfer import match
from graphprune.state import State
from passes.fold_norms import FoldNorms
from passes.rotate import Rotate
from tests.law import draw, net

WIDTH, RANK = 16, 5


def transformer(norm: str = "LayerNormalization<axis=-1>({}, g{}, h{})", last: str = "", rank: int = RANK) -> State:
    """Feed-forward layers whose stream stays within ``rank`` directions of all its channels."""
    rng = np.random.default_rng(0)
    space = draw(rng, (rank, WIDTH)) * 2
    weights: dict[str, np.ndarray] = {"e": draw(rng, (7, rank)) @ space, "o": draw(rng, (WIDTH, 3))}
    lines = ["s0 = MatMul(x, e)"]
    for k in range(2):
        weights[f"g{k}"], weights[f"h{k}"] = 1 + 0.3 * draw(rng, (WIDTH,)), 0.3 * draw(rng, (WIDTH,))
        weights[f"u{k}"], weights[f"d{k}"] = draw(rng, (WIDTH, 12)), draw(rng, (12, rank)) @ space
        weights[f"b{k}"], weights[f"c{k}"] = draw(rng, (12,)), draw(rng, (rank,)) @ space
        lines += [f"n{k} = {norm.format(f's{k}', k, k)}", f"m{k} = MatMul(n{k}, u{k})", f"a{k} = Add(m{k}, b{k})"]
        lines += [f"r{k} = Relu(a{k})", f"q{k} = MatMul(r{k}, d{k})", f"f{k} = Add(q{k}, c{k})"]
        lines += [f"s{k + 1} = Add(s{k}, f{k})"]
    weights["g2"], weights["h2"] = 1 + 0.3 * draw(rng, (WIDTH,)), 0.3 * draw(rng, (WIDTH,))
    lines += [last or f"n2 = {norm.format('s2', 2, 2)}", "y = MatMul(n2, o)"]
    return State(load(net("\n".join(lines), inputs="float[4,9,7] x", opset=18, **weights)))


def test_a_rotation_changes_nothing_and_a_slice_is_proved() -> None:
    state, records = run(transformer(), parse("fold_norms, rotate, uniform(ratio=0.5), cut, clean"))
    fold, rotate, _, cut, _ = records
    assert fold.agreement is not None
    assert fold.agreement.error < 1e-5
    assert rotate.agreement is not None
    assert rotate.agreement.error < 1e-5
    assert cut.agreement is not None
    assert cut.agreement.error < 1e-5
    assert {dim.tensor for dim in cut.cut} >= {"e", "d0", "c0", "u0", "d1", "o"}
    assert state.model.constants["e"].values.shape == (7, WIDTH // 2)
    assert not any(node.op == "LayerNormalization" for node in state.model.graph.nodes)


def test_directions_that_nothing_flows_through_cost_nothing() -> None:
    """A LayerNormalization takes one more direction away, that of the mean."""
    state = transformer()
    small, _ = run(state, parse("fold_norms, rotate, uniform(ratio=0.625), cut"))
    assert small.model.constants["e"].values.shape == (7, 6)
    assert measure(state.model, small.model).error < 1e-5
    smaller, _ = run(state, parse("fold_norms, rotate, uniform(ratio=0.75), cut"))
    by_size, _ = run(state, parse("fold_norms, magnitude, uniform(ratio=0.75), cut"))
    assert smaller.model.constants["e"].values.shape == by_size.model.constants["e"].values.shape == (7, 4)
    assert 1e-3 < measure(state.model, smaller.model).error < measure(state.model, by_size.model).error


def test_norms_spelled_out_in_nodes() -> None:
    lines = [
        "n = MatMul(x, e)",
        "p = Mul(n, n)",
        "v = ReduceMean<keepdims=1>(p, last)",
        "w = Add(v, eps)",
        "z = Sqrt(w)",
    ]
    lines += [
        "k = Div(n, z)",
        "m = MatMul(k, u)",
        "r = Relu(m)",
        "f = MatMul(r, d)",
        "s = Add(n, f)",
        "y = MatMul(s, o)",
    ]
    rng = np.random.default_rng(0)
    shapes = {"e": (7, 8), "u": (8, 12), "d": (12, 8), "o": (8, 3)}
    weights = {name: draw(rng, shape) for name, shape in shapes.items()}
    numbers = {"last": np.array([-1]), "eps": np.array(1e-5, np.float32)}
    state = State(load(net("\n".join(lines), inputs="float[4,9,7] x", opset=18, **weights, **numbers)))
    after, records = run(state, parse("rotate, uniform(ratio=0.25), cut"))
    assert all(r.agreement is None or r.agreement.error < 1e-5 for r in records)
    assert after.model.constants["d"].values.shape == (12, 6)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (transformer(), "LayerNormalization at 'n0' does not treat all directions alike"),
        (FoldNorms()(transformer(last="n2 = Identity(s2)")), "reads it with its mean, which the norms take away"),
        (FoldNorms()(transformer(last="n2 = Relu(s2)")), "Relu at 'n2' does not treat all directions alike"),
        (State(load(net("t = Conv(x, a)\ny = Conv(t, b)", a=(4, 3, 1, 1), b=(2, 4, 1, 1)))), "no residual stream"),
    ],
)
def test_what_a_rotation_would_change_is_refused(state: State, why: str) -> None:
    with pytest.raises(NothingToPruneError, match=why):
        Rotate()(state)


def test_plans_replay_and_are_kept_from_the_weights_of_the_framework() -> None:
    proto = transformer().model.proto()
    made = graphprune.prune(proto, preset="slice", ratio=0.5)
    again = graphprune.prune(proto, plan=made.plan)
    assert again.model.proto().SerializeToString() == made.model.proto().SerializeToString()
    with pytest.raises(UsageError, match=r"'rotate\(seed=0\)' mixes channels"):
        match(made.plan, {})
    plain = graphprune.prune(proto, preset="magnitude", ratio=0.25, round_to=1)
    with pytest.raises(UsageError, match="only one plan has 'rotate"):
        merge(made.plan, plain.plan)
    with pytest.raises(UsageError, match="real inputs"):
        Rotate(given=True)(transformer())
