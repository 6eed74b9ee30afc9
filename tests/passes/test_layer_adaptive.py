"""Dynamic programming against every choice of widths there is, and against Lagrange multipliers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from graphprune.allocation import Budget
from graphprune.errors import TargetNotReachedError
from graphprune.model import load
from graphprune.state import State
from passes.allocate import Allocate
from passes.layer_adaptive import LayerAdaptive
from tests.law import net

NET = net(
    "s = Conv(x, a)\nt = Relu(s)\nu = Conv(t, b)\nv = Relu(u)\nw0 = Conv(v, c)\nz = Relu(w0)\ny = Conv(z, d)",
    a=(16, 3, 1, 1),
    b=(24, 16, 1, 1),
    c=(16, 24, 1, 1),
    d=(2, 16, 1, 1),
)


def curves(seed: int) -> State:
    """Error curves that start flat and end steep, some of them with a jump that no tangent touches."""
    state, rng = State(load(NET)), np.random.default_rng(seed)
    scores = {}
    for group in state.groups:
        steps = rng.uniform(0, 1, group.size) ** 3
        scores[group.name] = np.cumsum(steps) * rng.uniform(0.2, 5) * np.linspace(0.1, 2, group.size)
    return State(state.model, scores=scores)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_close_to_the_best_of_all_choices(seed: int, share: float) -> None:
    state, amounts = curves(seed), LayerAdaptive(macs=share, multiple=2)
    budget = Budget(state, amounts)
    names = list(budget.options)
    every = (dict(zip(names, counts, strict=True)) for counts in product(*budget.options.values()))
    best = min(budget.error(kept) for kept in every if budget.use(kept) <= 1)
    for method in (amounts, Allocate(macs=share, multiple=2)):
        drop = method(state).drop
        kept = {name: budget.full[name] - len(drop.get(name, ())) for name in names}
        assert budget.use(kept) <= 1
        assert budget.error(kept) <= 1.1 * best + 1e-12


def test_limits() -> None:
    assert LayerAdaptive()(curves(0)).drop == {}
    with pytest.raises(TargetNotReachedError):
        LayerAdaptive(macs=0.005)(curves(0))
