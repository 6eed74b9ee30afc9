"""Cutting, zeroing, and what of a model each of them touches."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cut import cut, gone, zeroed
from graphprune.groups import analyse
from graphprune.model import Model, load
from graphprune.proof import LAW_RTOL, Runner, compare, seeded_inputs
from graphprune.rules import RULES, Dim, Rule
from graphprune.rules.base import Call, Ties, tie
from tests.law import assert_law, net

NORM = {"s": (6,), "o": (6,), "m": (6,), "v": np.linspace(0.5, 1.5, 6, dtype=np.float32)}
BODY = "t = Conv(x, a, c)\nn = BatchNormalization(t, s, o, m, v)\nu = Relu(n)\ny = Conv(u, b)"


@pytest.fixture
def model() -> Model:
    return load(net(BODY, a=(6, 3, 3, 3), c=(6,), b=(4, 6, 1, 1), **NORM))


def test_gone_marks_every_axis_of_a_dropped_unit(model: Model) -> None:
    going = gone(analyse(model).groups, {"a[0]": np.array([1, 3])})
    mask = [False, True, False, True, False, False]
    expected = {"t[1]", "n[1]", "u[1]", "a[0]", "c[0]", "s[0]", "o[0]", "m[0]", "v[0]", "b[1]"}
    assert {str(dim) for dim in going} == expected
    assert all(m.tolist() == mask for m in going.values())


def test_gone_joins_groups_that_share_an_axis() -> None:
    body = "t = Conv(x, a)\ns = Conv(x, d)\nu = Concat<axis=1>(t, s)\ny = Conv(u, b)"
    groups = analyse(load(net(body, a=(2, 3, 1, 1), d=(3, 3, 1, 1), b=(2, 5, 1, 1)))).groups
    going = gone(groups, {"a[0]": np.array([0]), "d[0]": np.array([2])})
    assert going[Dim("b", 1)].tolist() == [True, False, False, False, True]


def test_nothing_dropped_is_nothing_gone(model: Model) -> None:
    assert gone(analyse(model).groups, {}) == {}
    assert gone(analyse(model).groups, {"a[0]": np.array([], np.int64)}) == {}


def test_the_original_is_left_as_it_was(model: Model) -> None:
    before = model.proto().SerializeToString()
    going = gone(analyse(model).groups, {"a[0]": np.array([1])})
    cut(model, going)
    zeroed(model, going)
    assert model.proto().SerializeToString() == before


def test_zeroing_silences_parameters_and_keeps_variance(model: Model) -> None:
    silent = zeroed(model, gone(analyse(model).groups, {"a[0]": np.array([1])}))
    values = {n: np.asarray(c.values) for n, c in silent.constants.items()}
    assert not values["a"][1].any()
    assert not values["b"][:, 1].any()
    assert values["v"][1] == 1
    assert [values[n][1] for n in "csom"] == [0, 0, 0, 0]
    kept = [0, 2, 3, 4, 5]
    assert all(np.array_equal(values[n][kept], model.constants[n].values[kept]) for n in "acsomv")


def test_the_law_on_every_single_unit(model: Model) -> None:
    for unit in range(6):
        assert_law(model, {"a[0]": np.array([unit])})


def test_names_order_and_types_stay(model: Model) -> None:
    small = cut(model, gone(analyse(model).groups, {"a[0]": np.array([0, 5])}))
    assert [(n.op, [t.name for t in n.inputs]) for n in small.graph.nodes] == [
        (n.op, [t.name for t in n.inputs]) for n in model.graph.nodes
    ]
    assert list(small.constants) == list(model.constants)
    assert {str(c.dtype) for c in small.constants.values()} == {"float32"}
    assert all(np.asarray(c.values).flags.c_contiguous for c in small.constants.values())


def _forgets_the_bias(call: Call) -> Ties:
    yield tie(call.inputs[1], 0, call.y, 1)  # type: ignore[arg-type]
    yield tie(call.x, 1, call.inputs[1], 1)  # type: ignore[arg-type]


def _takes_softmax_for_elementwise(call: Call) -> Ties:
    for axis in range(call.x.rank):
        yield tie(call.x, axis, call.y, axis)


def test_the_law_catches_a_rule_that_forgets_to_pin() -> None:
    model = load(net("t = Conv(x, a)\nu = Softmax<axis=1>(t)\ny = Conv(u, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1)))
    rules = {**RULES, "Softmax": Rule(_takes_softmax_for_elementwise)}
    groups = analyse(model, rules).groups
    assert [g.size for g in groups] == [6]
    going = gone(groups, {"a[0]": np.array([1, 2])})
    inputs = seeded_inputs(model)
    a, b = Runner(cut(model, going, rules))(inputs), Runner(zeroed(model, going, rules))(inputs)
    assert compare(a, b, LAW_RTOL["float32"]).error > 0.01


def test_an_incomplete_rule_prunes_less() -> None:
    """Silence pins: a convolution rule that forgets the bias pins it, and nothing else goes wrong."""
    model = load(net("t = Conv(x, a, c)\ny = Conv(t, b)", a=(6, 3, 1, 1), c=(6,), b=(4, 6, 1, 1)))
    dependencies = analyse(model, {**RULES, "Conv": Rule(_forgets_the_bias)})
    assert {str(p.dim) for p in dependencies.pinned} >= {"c[0]"}
    for group in dependencies.groups:
        assert Dim("c", 0) not in group.labels
