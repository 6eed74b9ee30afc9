"""The law on random graphs and random choices of units.

Quick and the same every time by default; ``HYPOTHESIS_PROFILE=slow pytest tests/test_properties.py`` searches wider.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st
from onnx import ModelProto

from graphprune.budget import weakest, widths
from graphprune.cost import CostModel
from graphprune.cut import cut, gone
from graphprune.errors import NothingToPruneError, TargetNotReachedError
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.pipeline import parse, preset, run
from graphprune.proof import LAW_RTOL
from graphprune.state import State
from tests.law import agree, brief, halves
from tests.random_nets import random_net, random_perceptron
from tests.tiny_nets import random_chain


@st.composite
def nets(draw: st.DrawFn, dtype: type = np.float32) -> ModelProto:
    return random_net(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0, dtype=dtype)


@st.composite
def perceptrons(draw: st.DrawFn) -> ModelProto:
    return random_perceptron(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0)


@st.composite
def chains(draw: st.DrawFn) -> ModelProto:
    return random_chain(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0)


SHARES = st.sampled_from([0.1, 0.5, 0.9, 1.0])
SEEDS = st.integers(0, 1000)


def _hold(proto: ModelProto, share: float, seed: int, *, chain: bool = False) -> None:
    model = load(proto)
    groups = analyse(model).groups
    target(len(groups))
    agreement = agree(model, groups, halves(groups, seed, share), seed, amplifies=chain)
    assert agreement.holds, agreement


@given(nets(), SHARES, SEEDS)
def test_cutting_equals_zeroing(proto: ModelProto, share: float, seed: int) -> None:
    _hold(proto, share, seed)


@given(chains(), SHARES, SEEDS)
def test_cutting_equals_zeroing_over_the_whole_operator_table(proto: ModelProto, share: float, seed: int) -> None:
    _hold(proto, share, seed, chain=True)


@pytest.mark.slow
@settings(max_examples=15_000)
@given(chains(), SHARES, SEEDS)
def test_fifteen_thousand_chains(proto: ModelProto, share: float, seed: int) -> None:
    """About ten minutes of one core; the same graphs every time. ``python -m benchmarks.chains`` draws others."""
    _hold(proto, share, seed, chain=True)


@pytest.mark.slow
@settings(max_examples=5_000)
@given(nets(), SHARES, SEEDS)
def test_five_thousand_nets(proto: ModelProto, share: float, seed: int) -> None:
    _hold(proto, share, seed)


@given(nets(), SEEDS)
def test_any_subset_of_units_may_go(proto: ModelProto, seed: int) -> None:
    model = load(proto)
    groups = analyse(model).groups
    rng = np.random.default_rng(seed)
    drop = {g.name: rng.permutation(g.size)[: rng.integers(0, g.size)] for g in groups}
    agreement = agree(model, groups, drop, seed)
    assert agreement.holds, agreement
    small = cut(model, gone(groups, drop))
    foreseen = CostModel(model, groups).at({name: len(units) for name, units in drop.items()})
    actual = CostModel(small).at()
    assert (foreseen.parameters, foreseen.macs) == (actual.parameters, actual.macs)


@given(nets(), st.sampled_from([2, 3, 4]), st.sampled_from([0.3, 0.6, 0.9]))
def test_every_cut_axis_is_a_multiple(proto: ModelProto, multiple: int, ratio: float) -> None:
    dependencies = analyse(load(proto))
    legal = widths(dependencies, dependencies.groups, multiple)
    kept = {g.name: legal[g.name].at_least(round(g.size * (1 - ratio))) for g in dependencies.groups}
    drop = weakest({g.name: np.arange(g.size) for g in dependencies.groups}, kept)
    for dim, mask in gone(dependencies.groups, drop).items():
        assert int((~mask).sum()) % multiple == 0, str(dim)


@given(nets(), st.sampled_from(["uniform(ratio=0.5)", "uniform(ratio=0.4, multiple=2)", "choose(params=0.6)"]), SEEDS)
def test_presets_prove_themselves(proto: ModelProto, choice: str, seed: int) -> None:
    """Every pass of a whole preset is proved on the way; none may fail on a valid net."""
    try:
        _, records = run(State(load(proto)), parse(preset("magnitude", choice)), seed=seed)
    except (NothingToPruneError, TargetNotReachedError):
        return
    assert all(r.agreement is None or r.agreement.holds for r in records)


@given(nets(np.float16), SEEDS)
def test_half_precision(proto: ModelProto, seed: int) -> None:
    model = load(proto)
    groups = analyse(model).groups
    agreement = agree(model, groups, halves(groups, seed), seed)
    assert agreement.rtol == LAW_RTOL["float16"]
    assert agreement.holds, agreement


@given(perceptrons(), SEEDS)
def test_double_precision(proto: ModelProto, seed: int) -> None:
    model = load(proto)
    groups = analyse(model).groups
    agreement = agree(model, groups, halves(groups, seed), seed)
    assert agreement.rtol == LAW_RTOL["float64"]
    assert agreement.holds, agreement


@given(nets())
def test_analysis_is_deterministic(proto: ModelProto) -> None:
    first, second = analyse(load(proto)), analyse(load(proto))
    assert [str(g) for g in first.groups] == [str(g) for g in second.groups]
    assert first.pinned == second.pinned
    for a, b in zip(first.groups, second.groups, strict=True):
        assert all(np.array_equal(a.labels[dim], b.labels[dim]) for dim in a.labels)


@given(nets())
def test_groups_are_sound(proto: ModelProto) -> None:
    """Units of a group are equal in size on every axis, no position has two owners, and a cut can be cut again."""
    model = load(proto)
    groups = analyse(model).groups
    owned: dict[object, np.ndarray] = {}
    for group in groups:
        for dim, labels in group.labels.items():
            counts = np.bincount(labels[labels >= 0], minlength=group.size)
            assert len(counts) == group.size, brief(group)
            assert len(set(counts)) == 1, brief(group)
            taken = owned.setdefault(dim, np.zeros(len(labels), bool))
            assert not (taken & (labels >= 0)).any()
            taken |= labels >= 0
    small = load(cut(model, gone(groups, halves(groups))).proto())
    again = analyse(small).groups
    agreement = agree(small, again, halves(again, 1))
    assert agreement.holds, agreement


@pytest.mark.parametrize("seed", range(8))
def test_random_nets_prove_something(seed: int) -> None:
    """A generator that makes dead or fully pinned nets would let any rule pass."""
    rng = np.random.default_rng(seed)
    model = load(random_net(lambda n: int(rng.integers(0, n)), steps=12))
    groups = analyse(model).groups
    assert groups
    agreement = agree(model, groups, halves(groups, share=0.3))
    assert agreement.holds
    assert not agreement.silent
