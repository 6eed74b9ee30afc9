"""Removal of layers: proved, planned, replayed, and together with channels."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import graphprune
from graphprune import branches, plan
from graphprune.errors import UsageError, VerificationError
from graphprune.model import load
from graphprune.pipeline import Step, parse, run
from graphprune.plan.merge import merge
from graphprune.state import State
from passes.remove_layers import RemoveLayers
from tests.test_branches import SIZES, transformer

RESNET = Path("models/fashion_resnet20.onnx")


def test_the_runner_holds_a_removal_to_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(load(transformer(), dim_params=SIZES), layers=("m1",))
    after, (record,) = run(state, parse("remove_layers"))
    assert [b.sum for b in record.layers_gone] == ["m1"]
    assert record.law
    assert record.agreement is not None
    assert record.agreement.error < 1e-6
    assert record.agreement.rtol == 1e-5
    assert record.layers is not None
    assert len(record.layers.outputs) > 10
    assert after.layers == ()
    right = branches.without
    monkeypatch.setattr("passes.remove_layers.without", lambda model, names, **_: right(model, ["h1"]))
    with pytest.raises(VerificationError, match="after 'remove_layers' output"):
        run(state, [Step("remove_layers", RemoveLayers())])


def test_nothing_chosen_nothing_removed() -> None:
    state = State(load(transformer(), dim_params=SIZES))
    assert RemoveLayers()(state) is state
    with pytest.raises(UsageError, match="caches cannot be 'drop'"):
        RemoveLayers(caches="drop")


@pytest.mark.parametrize("keep", [True, False])
def test_a_plan_replays_to_the_same_bytes(tmp_path: Path, keep: bool) -> None:
    proto = transformer()
    first = graphprune.prune(proto, dim_params=SIZES, remove_layers=2, remove_caches=not keep, ratio=0.25, round_to=1)
    first.save(tmp_path / "first.onnx")
    made = plan.read(tmp_path / "first.plan.json")
    assert len(made.layers) == 2
    assert made.removals
    assert [layer.removed for layer in first.report.layers].count(True) == 2
    graphprune.prune(proto, plan=made).save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()
    assert (tmp_path / "again.plan.json").read_bytes() == (tmp_path / "first.plan.json").read_bytes()
    assert graphprune.verify(proto, tmp_path / "first.onnx", made).holds


def test_an_edited_plan_removes_fewer_layers() -> None:
    proto = transformer()
    made = graphprune.prune(proto, dim_params=SIZES, remove_layers=2).plan
    edited = msgspec.structs.replace(made, layers=made.layers[:1])
    assert sum(layer.removed for layer in graphprune.prune(proto, plan=edited).report.layers) == 1
    wrong = msgspec.structs.replace(made, layers=[plan.LayerRemoval("h1", "r0")])
    with pytest.raises(UsageError, match="the layer 'r0' from the sum 'h1', which this model lacks"):
        graphprune.prune(proto, plan=wrong)


def test_plans_of_layers_are_merged() -> None:
    proto = transformer()
    one, other = (
        graphprune.prune(proto, dim_params=SIZES, passes=f"choose_layers(of='{kind}'), remove_layers, clean").plan
        for kind in ("attention", "feed-forward")
    )
    both = merge(one, other)
    assert {layer.kind for layer in both.layers} == {"attention", "feed-forward"}
    assert sum(layer.removed for layer in graphprune.prune(proto, plan=both).report.layers) == 2


def test_layers_and_channels_of_a_trained_network_in_one_run() -> None:
    result = graphprune.prune(RESNET, remove_layers=1, target_macs=0.6, effort=0, preset="magnitude")
    laws = [step for step in result.report.steps if step.law]
    assert [step.step for step in laws] == ["remove_layers", "cut"]
    assert all(step.error is not None and step.tolerance is not None for step in laws)
    assert result.report.kept.macs <= 0.6
    assert result.report.before.macs == graphprune.inspect(RESNET).report.before.macs
    assert np.isclose(result.report.kept.macs, result.report.after.macs / result.report.before.macs, atol=1e-6)


def test_layers_exclude_a_pipeline() -> None:
    with pytest.raises(UsageError, match="remove_layers exclude each other"):
        graphprune.prune(transformer(), remove_layers=1, passes="clean")
