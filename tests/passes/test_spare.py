"""What is nearly free: dead and duplicate units go, whatever their size; the rest stays within the bound."""

from __future__ import annotations

import numpy as np
import pytest

import graphprune
from graphprune.model import load
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from passes.spare import Spare
from tests.law import net

NET = net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", a=(8, 3, 1, 1), b=(2, 8, 1, 1))


@pytest.mark.parametrize(("error", "gone"), [(0.0, 2), (0.005, 2), (0.02, 3), (0.2, 5), (1e9, 7)])
def test_the_bound_holds(error: float, gone: int) -> None:
    curve = np.array([0.0, 0.0, 0.01, 0.05, 0.15, 0.5, 0.8, 1.0])
    drop = Spare(error=error)(State(load(NET), scores={"a[0]": curve})).drop
    assert len(drop["a[0]"]) == gone


def planted() -> object:
    """Units 1 and 6 are alike, nobody reads 4, nothing comes out of 3; what belongs to them is large."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 3, 3, 3)).astype(np.float32), rng.standard_normal((4, 8, 3, 3)).astype(np.float32)
    a[[1, 4]] *= 3
    b[:, 3] *= 3
    a[6], b[:, 4] = a[1], 0
    bias = np.full(8, 0.1, np.float32)
    bias[3], a[3] = -1, 0
    bias[6] = bias[1]
    return net(
        "t = Conv<pads=[1,1,1,1]>(x, a, c)\nu = Relu(t)\ny = Conv<pads=[1,1,1,1]>(u, b)",
        a=a,
        b=b,
        c=bias,
    )


def test_without_an_amount_planted_units_go_and_the_outputs_stay() -> None:
    proto = planted()
    result = graphprune.prune(proto, round_to=1)  # type: ignore[arg-type]
    (group,) = result.report.groups
    assert group.kept == 5
    (removal,) = {tuple(r.removed) for r in result.plan.removals if r.axis == 0 and r.tensor == "a"}
    assert {3, 4} < {*removal}
    assert {*removal} & {1, 6}
    inputs = seeded_inputs(result.original, 3)
    wanted, got = Runner(result.original)(inputs)["y"], Runner(result.model)(inputs)["y"]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert any("nearly free" in note for note in result.report.notes)


def test_a_model_in_which_nothing_can_go_is_only_cleaned() -> None:
    result = graphprune.prune(net("t = Conv(x, a)\ny = Sigmoid(t)", a=(4, 3, 1, 1)))
    assert result.report.kept.macs == 1
    assert not result.plan.removals
