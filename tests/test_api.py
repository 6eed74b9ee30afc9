"""The library as a user imports it: functions that can be called again and again, and change nothing they are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import graphprune
from graphprune import api
from graphprune.errors import CompileError, NothingToPruneError, TargetNotReachedError, UsageError
from tests.law import net

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"


def test_functions_stay_functions_when_their_parts_are_imported():
    program = """
import graphprune
import graphprune.api, graphprune.compiler.targets, graphprune.proof, graphprune.runtime
for name in graphprune.__all__:
    assert callable(getattr(graphprune, name)), name
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_unknown_names_are_no_attributes():
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = graphprune.frobnicate


def test_a_protobuf_is_not_changed():
    proto = onnx.load(RESNET)
    before = proto.SerializeToString(deterministic=True)
    result = graphprune.prune(proto, ratio=0.5, preset="magnitude")
    assert proto.SerializeToString(deterministic=True) == before
    assert result.report.kept.parameters < 0.5
    assert tuple(result.original.constants["2.first.0.weight"].shape) == (16, 16, 3, 3)


def test_a_pipeline_in_place_of_amounts():
    text = "fold_shapes, fold_constants, random_score(seed=3), uniform(ratio=0.25, multiple=4), cut, clean"
    result = graphprune.prune(RESNET, passes=text)
    assert ", ".join(record.text for record in result.records) == text
    assert result.model.constants["2.first.0.weight"].shape == (12, 12, 3, 3)


def test_include_and_exclude():
    only = graphprune.prune(RESNET, ratio=0.5, preset="magnitude", include=r"^2\.first\.0\.weight\[0\]")
    assert {r.tensor for r in only.plan.removals if r.axis == 0} >= {"2.first.0.weight"}
    assert all(g.kept == g.units for g in only.report.groups if g.name != "2.first.0.weight[0]")
    rest = graphprune.prune(RESNET, ratio=0.5, preset="magnitude", exclude=r"^2\.first\.0\.weight\[0\]")
    assert next(g for g in rest.report.groups if g.name == "2.first.0.weight[0]").kept == 16
    more = graphprune.prune(
        RESNET, ratio=0.5, preset="magnitude", exclude=[r"^2\.first\.0\.weight\[0\]", r"(?i)^3\.FIRST\.0\.WEIGHT\[0\]"]
    )
    assert [g.name for g in more.report.groups if g.kept == g.units] == ["2.first.0.weight[0]", "3.first.0.weight[0]"]


@pytest.mark.parametrize("exclude", ["(", ["a", "("], ["a", 3], 3, [["a"]]])
def test_what_is_no_regular_expression_is_said(exclude):
    with pytest.raises(UsageError, match="exclude"):
        graphprune.prune(RESNET, ratio=0.5, preset="magnitude", exclude=exclude)


def test_symbolic_dimensions_and_metadata_are_kept(tmp_path):
    graphprune.prune(RESNET, ratio=0.5, preset="magnitude", dim_params={"batch": 3}).save(tmp_path / "s.onnx")
    before, after = onnx.load(RESNET), onnx.load(tmp_path / "s.onnx")
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert list(after.opset_import) == list(before.opset_import)
    keys = {entry.key for entry in after.metadata_props}
    assert keys == {entry.key for entry in before.metadata_props} | {"graphprune.version", "graphprune.passes"}


def test_unknown_targets_fail_before_anything_is_pruned(tmp_path):
    seen = []
    with pytest.raises(CompileError, match="toaster"):
        graphprune.compile(RESNET, tmp_path / "out", targets=["toaster"], ratio=0.5, announce=seen.append)
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_beyond_what_is_allowed_ends_the_run():
    with pytest.raises(TargetNotReachedError, match=r"off by .* on 12 made-up inputs, more than 1\.00%"):
        graphprune.prune(RESNET, ratio=0.5, preset="magnitude", max_error=0.01)
    report = graphprune.prune(RESNET, ratio=0.5, preset="magnitude", max_error=2.0).report
    assert report.fidelity is not None
    assert 0.01 < report.fidelity.error <= 2


def test_what_cannot_be_proved_is_cut_when_asked_for_measured_and_replayed() -> None:
    body = "t = MatMul(x, a)\nu, m = LayerNormalization(t, s, o)\ny = MatMul(u, b)"
    source = net(body, outputs="y m", inputs="float[5,3] x", a=(3, 8), s=(8,), o=(8,), b=(8, 4))
    with pytest.raises(NothingToPruneError):
        api.prune(source, ratio=0.5, preset="l1", round_to=1)
    result = api.prune(source, ratio=0.5, preset="l1", round_to=1, inexact=True)
    assert result.model.constants["a"].shape == (3, 4)
    (group,) = result.report.groups
    assert group.inexact
    (law,) = [s for s in result.report.steps if s.law]
    assert law.tolerance is None
    assert law.error is not None
    assert law.error > 1e-3, "a mean over fewer is another"
    assert api.verify(source, result.model, result.plan).holds
