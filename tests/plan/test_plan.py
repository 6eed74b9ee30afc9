"""Plans: written, read, edited, and refused when they make no sense."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from fastjsonschema import JsonSchemaValueException, compile

import graphprune
from graphprune import Result
from graphprune import plan as plans
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.plan import Plan, Removal
from graphprune.plan.origins import traced
from graphprune.state import State
from tests.law import net

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"


@pytest.fixture(scope="module")
def result():
    return graphprune.prune(RESNET, ratio=0.5, preset="magnitude")


def cut_from(result: Result) -> State:
    return next(r.before for r in result.records if r.cut)


def found_in(result: Result) -> tuple[Group, ...]:
    state = cut_from(result)
    return traced(result.original, state.model, state.groups)


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
    assert plans.to_json(Plan(2, "m", {}, [], [], [])).decode().count("removals") == 1


def test_as_drop_is_the_inverse(result):
    state = cut_from(result)
    drop, chosen = plans.as_drop(result.plan, result.original, found_in(result)), state.drop
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


def test_refusals_name_the_tensor_the_axis_and_the_position(result):
    groups = found_in(result)
    good = result.plan.removals[0]

    def refused(*removals: Removal) -> str:
        with pytest.raises(UsageError) as error:
            plans.as_drop(Plan(2, "m", {}, [], list(removals), []), result.original, groups)
        return str(error.value)

    last = result.plan.removals[-1]
    everything = [msgspec.structs.replace(r, removed=list(range(r.size))) for r in result.plan.removals]
    assert "nobody[0], which this model lacks or pins" in refused(Removal("nobody", 0, 4, [0]))
    assert f"{good.size + 1} positions on {good.dim}" in refused(msgspec.structs.replace(good, size=good.size + 1))
    assert f"position 99 of {good.dim}" in refused(msgspec.structs.replace(good, removed=[99]))
    assert "only part of a coupled unit: 8.second.0.weight[0] must lose" in refused(good)
    assert f"only part of a coupled unit: {last.dim} must lose" in refused(*result.plan.removals[:-1])
    assert f"lists {good.dim} twice" in refused(good, *result.plan.removals)
    assert "removes all of 0.0.weight[0]" in refused(*everything)


def test_the_plan_speaks_of_the_originals_initializers_whatever_passes_folded():
    """With and without BatchNormalization folded into the convolutions before the cut."""
    choice = "uniform(ratio=0.5)"
    early = graphprune.prune(RESNET, passes=f"fold_constants, fold_batchnorm, magnitude, {choice}, cut").plan
    late = graphprune.prune(RESNET, passes=f"fold_constants, magnitude, {choice}, cut, fold_batchnorm").plan
    assert [r.dim for r in early.removals] == [r.dim for r in late.removals]
    initializers = {t.name for t in onnx.load(RESNET).graph.initializer}
    # What the exporter stored once and copied by an Identity node has two names in the plan.
    assert {r.tensor for r in early.removals} - initializers == {"5.shortcut.1.bias", "8.shortcut.1.bias"}
    again = graphprune.prune(RESNET, plan=early)
    assert again.plan == early


def test_a_transposed_matrix_is_spoken_of_by_its_own_name():
    body = "t = Transpose <perm = [1, 0]> (a) u = MatMul(x, t) v = Relu(u) y = MatMul(v, b)"
    proto = net(body, inputs="float[2,3] x", a=(6, 3), b=(6, 4))
    result = graphprune.prune(proto, ratio=0.5, round_to=1, preset="magnitude")
    assert [str(r.dim) for r in result.plan.removals] == ["a[0]", "b[0]"]
    assert graphprune.prune(proto, plan=result.plan).plan == result.plan


def test_the_schema_describes_the_file(result):
    validate = compile(plans.schema())
    validate(json.loads(plans.to_json(result.plan)))
    for wrong in ({"axis": -1}, {"removed": ["1"]}, {"sizes": 3}):
        row = {**msgspec.to_builtins(result.plan.removals[0]), **wrong}
        with pytest.raises(JsonSchemaValueException):
            validate({**msgspec.to_builtins(result.plan), "removals": [row]})


def test_unreadable_files(tmp_path):
    for name, text in {
        "a": "{",
        "b": "{}",
        "typo": '{"version":2,"model":"","input_shape":{},"before":[],"removals":[],"after":[]}',
        "c": '{"version":9,"model":"","input_shapes":{},"before":[],"removals":[],"after":[]}',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError):
            plans.read(tmp_path / name)
    with pytest.raises(UsageError, match="cannot read"):
        plans.read(tmp_path / "missing")
