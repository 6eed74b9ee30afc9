"""Plans: written, read, edited, and refused when they make no sense."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import graphprune
from graphprune import Result
from graphprune import plan as plans
from graphprune.errors import UsageError
from graphprune.plan import Plan, Removal
from graphprune.state import State

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"


@pytest.fixture(scope="module")
def result():
    return graphprune.prune(RESNET, ratio=0.5, preset="magnitude")


def cut_from(result: Result) -> State:
    return next(r.before for r in result.records if r.cut)


def test_removals_name_every_weight_of_a_unit(result):
    removals = {(r.tensor, r.axis): r for r in result.plan.removals}
    conv, scale, consumer = (
        removals["2.first.0.weight", 0],
        removals["2.first.1.weight", 0],
        removals["2.second.0.weight", 1],
    )
    assert conv.size == 16
    assert len(conv.removed) == 8
    assert conv.removed == scale.removed == consumer.removed
    assert {t for t, _ in removals} <= set(cut_from(result).model.constants)
    assert "cut" not in result.plan.before + result.plan.after


def test_sizes_of_the_run_are_kept():
    assert graphprune.prune(RESNET, dim_params={"batch": 3}).plan.input_shapes == {"image": (3, 1, 28, 28)}


def test_json_round_trip(result, tmp_path):
    file = tmp_path / "plan.json"
    file.write_bytes(plans.to_json(result.plan))
    assert plans.read(file) == result.plan
    lines = file.read_text().splitlines()
    assert sum('"tensor"' in line for line in lines) == len(result.plan.removals)
    assert plans.to_json(Plan(1, "m", {}, [], [], [])).decode().count("removals") == 1


def test_as_drop_is_the_inverse(result):
    state = cut_from(result)
    drop, chosen = plans.as_drop(result.plan, state.groups), state.drop
    assert drop.keys() == chosen.keys()
    for name, units in drop.items():
        np.testing.assert_array_equal(units, chosen[name])


def test_an_edited_plan_is_replayed(result):
    kept = [r for r in result.plan.removals if r.tensor.startswith("2.")]
    edited = [msgspec.structs.replace(r, removed=r.removed[:1]) for r in kept if len(r.removed) == 8]
    inner = [r for r in edited if not (r.tensor.startswith("2.first.0") and r.axis == 1)]
    inner = [r for r in inner if not (r.tensor.startswith("2.second") and r.axis == 0)]
    plan = msgspec.structs.replace(result.plan, removals=inner)
    again = graphprune.prune(RESNET, plan=plan)
    assert again.model.constants["2.first.0.weight"].shape == (15, 16, 3, 3)
    assert again.plan.removals == inner


def test_refusals(result):
    groups = cut_from(result).groups
    good = result.plan.removals[0]

    def refused(*removals: Removal) -> str:
        with pytest.raises(UsageError) as error:
            plans.as_drop(Plan(1, "m", {}, [], list(removals), []), groups)
        return str(error.value)

    assert "lacks or pins" in refused(Removal("nobody", 0, 4, [0]))
    assert "positions" in refused(msgspec.structs.replace(good, size=good.size + 1))
    assert "positions" in refused(msgspec.structs.replace(good, removed=[good.size]))
    assert "only part of a coupled unit" in refused(good)


def test_unreadable_files(tmp_path):
    for name, text in {
        "a": "{",
        "b": "{}",
        "c": '{"version":9,"model":"","input_shapes":{},"before":[],"removals":[],"after":[]}',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError):
            plans.read(tmp_path / name)
    with pytest.raises(UsageError, match="cannot read"):
        plans.read(tmp_path / "missing")
