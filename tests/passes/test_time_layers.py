"""Widths are timed by whatever the caller gives, and choices by latency follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphprune.cost import CostModel
from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.state import State
from passes.allocate import Allocate
from passes.choose import Choose
from passes.magnitude import Magnitude
from passes.time_layers import TimeLayers
from tests.law import net

NET = net(
    "t = Conv(x, a)\nu = Conv(t, d)\nv = Conv(u, e)\ny = Conv(v, b)",
    a=(32, 3, 1, 1),
    d=(32, 32, 1, 1),
    e=(32, 32, 1, 1),
    b=(2, 32, 1, 1),
)


def profile(model: Model) -> tuple[float, dict[str, float]]:
    """Only the product of the weights a and d takes any time."""
    nodes = {n.name: 0.0 for n in model.graph.nodes}
    second = model.graph.nodes[1]
    nodes[second.name] = float(CostModel(model).products()[1].macs)
    return sum(nodes.values()) + 100, nodes


def timed() -> State:
    model = load(NET)
    for k, node in enumerate(model.graph.nodes):
        node.name = f"node{k}"
    return TimeLayers(multiple=8)(State(model, data={"profile": profile}))


def test_every_width_is_predicted() -> None:
    state = timed()
    cost = CostModel(state.model, state.groups, state.data["latency"])
    full = cost.at()
    assert full.latency == pytest.approx(full.macs * 32 / (3 + 32 + 32 + 2) * 32 / 32 + 100, rel=0.01)
    halved = cost.at({"a[0]": 16, "d[0]": 16})
    assert (halved.latency - 100) / (full.latency - 100) == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize("method", [Choose, Allocate])
def test_what_takes_no_time_is_left_alone(method: type[Choose] | type[Allocate]) -> None:
    state = Magnitude()(timed())
    # Error curves that are alike: what goes is decided by what it saves.
    scores = {name: sorted(values) for name, values in state.scores.items()}
    state = replace(state, scores={name: [k / 32 for k in range(1, 33)] for name in scores})
    drop = method(latency=0.4, multiple=8)(state).drop
    cost = CostModel(state.model, state.groups, state.data["latency"])
    found = cost.at({name: len(units) for name, units in drop.items()}).latency
    assert found <= 0.4 * cost.at().latency
    if method is Allocate:
        assert "e[0]" not in drop


def test_latency_needs_timed_layers() -> None:
    with pytest.raises(UsageError, match="timed layers"):
        Choose(latency=0.5)(Magnitude()(State(load(NET))))
