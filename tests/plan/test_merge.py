"""Plans merged: of one model, on top of each other, and refused where they contradict."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import graphprune
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.plan import Plan, Removal
from graphprune.plan.merge import merge

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"
INNER = r"^2\.first\.0\.weight\[0\]"


def prune(model, **options):
    return graphprune.prune(model, **{"preset": "magnitude", "round_to": 1, **options})


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(c.shape) for name, c in model.constants.items()}


def small(*removals: Removal, before: tuple[str, ...] = (), after: tuple[str, ...] = (), **sizes) -> Plan:
    return Plan(2, "m", sizes, list(before), list(removals), list(after))


def test_plans_of_different_layers_are_united():
    one = prune(RESNET, ratio=0.5, include=INNER).plan
    other = prune(RESNET, ratio=0.25, include=INNER.replace("2", "3")).plan
    both = merge(one, other)
    assert sorted(both.removals, key=str) == sorted(merge(one, other, load(RESNET)).removals, key=str)
    assert merge(both, one) == both
    result = prune(RESNET, plan=both, ratio=None)
    assert result.model.constants["2.first.0.weight"].shape[0] == 8
    assert result.model.constants["3.first.0.weight"].shape[0] == 12
    assert sorted(both.removals, key=str) == sorted(result.plan.removals, key=str)


def test_plans_of_the_same_layer_remove_what_either_removes():
    one = prune(RESNET, ratio=0.25, include=INNER).plan
    other = prune(RESNET, ratio=0.25, include=INNER, preset="random").plan
    both = {(r.tensor, r.axis): set(r.removed) for r in merge(one, other, load(RESNET)).removals}
    for plan in (one, other):
        assert all(set(r.removed) <= both[r.tensor, r.axis] for r in plan.removals)
    assert 4 < len(both["2.first.0.weight", 0]) <= 8


@pytest.mark.parametrize("preset", ["magnitude", "obs"])
def test_a_plan_on_top_of_a_pruned_model_counts_back_to_the_original(tmp_path, preset):
    first = prune(RESNET, ratio=0.3, preset=preset, effort=0)
    first.save(tmp_path / "half.onnx")
    second = prune(tmp_path / "half.onnx", ratio=0.3, effort=0)
    with pytest.raises(UsageError, match="counted back"):
        merge(first.plan, second.plan)
    both = merge(first.plan, second.plan, load(RESNET))
    result = prune(RESNET, plan=both)
    assert shapes(result.model) == shapes(second.model)
    if preset == "magnitude":  # plain slices: even the numbers are those of the two steps
        for name, constant in second.model.constants.items():
            np.testing.assert_allclose(result.model.constants[name].values, constant.values, rtol=1e-5, atol=1e-6)


def test_what_contradicts_is_named():
    row = Removal("w", 0, 16, [1, 2])
    with pytest.raises(UsageError, match=r"w\[0\] has 16 positions in one plan and 12"):
        merge(small(row), small(Removal("w", 0, 12, [0])))
    with pytest.raises(UsageError, match=r"v\[0\] has its full size in the second plan, w\[0\] has lost"):
        merge(small(row, Removal("v", 0, 8, [0])), small(Removal("w", 0, 14, [0]), Removal("v", 0, 8, [1])))
    with pytest.raises(UsageError, match=r"calibrate\(seed=0\).*calibrate\(seed=1\)"):
        merge(small(row, before=("calibrate(seed=0)",)), small(row, before=("calibrate(seed=1)",)))
    with pytest.raises(UsageError, match="different input sizes"):
        merge(small(row, x=(1, 2)), small(row, x=(2, 2)))
    plan = prune(RESNET, ratio=0.5, include=INNER).plan
    rest = [msgspec.structs.replace(r, removed=[k for k in range(r.size) if k not in r.removed]) for r in plan.removals]
    with pytest.raises(UsageError, match="removes all of"):
        merge(plan, msgspec.structs.replace(plan, removals=rest), load(RESNET))


def test_passes_are_interleaved():
    row = Removal("w", 0, 16, [1])
    one = small(row, before=("fold_shapes", "calibrate(seed=0)"), after=("reconstruct", "clean"))
    other = small(row, before=("fold_shapes", "fold_batchnorm"), after=("fold_constants", "clean"))
    both = merge(one, other)
    assert both.before == ["fold_shapes", "calibrate(seed=0)", "fold_batchnorm"]
    assert both.after == ["reconstruct", "fold_constants", "clean"]
