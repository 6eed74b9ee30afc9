"""The report says what was done, with figures that add up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import graphprune
from graphprune import report as reports

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"


@pytest.fixture(scope="module")
def result():
    return graphprune.prune(RESNET, target_params=0.6, exclude=r"^5\.first", preset="magnitude", command="a command")


def test_costs_are_those_of_the_models(result):
    report = result.report
    for cost, model in ((report.before, result.original), (report.after, result.model)):
        floats = [c for c in model.constants.values() if c.dtype.kind == "f"]
        assert cost.parameters == sum(c.values.size for c in floats)
        assert cost.bytes == sum(c.values.nbytes for c in model.constants.values())
    assert report.kept.parameters == pytest.approx(report.after.parameters / report.before.parameters, abs=1e-6)
    assert report.kept.parameters <= 0.6
    assert report.before.channels == sum(g.units for g in report.groups)
    assert report.after.channels == sum(g.kept for g in report.groups)


def test_what_the_user_left_out_is_pinned_with_that_reason(result):
    group = next(g for g in result.report.groups if g.name == "5.first.0.weight[0]")
    assert group.kept == group.units == 32
    reasons = {p.reason for p in result.report.pinned if p.tensor == "5.first.0.weight" and p.axis == 0}
    assert reasons == {"group 5.first.0.weight[0] is left out by --include or --exclude"}


def test_every_axis_is_in_a_group_or_pinned(result):
    report = result.report
    grouped = {axis for g in report.groups for axis in g.axes}
    pinned = {f"{p.tensor}[{p.axis}]" for p in report.pinned}
    for name, constant in result.original.constants.items():
        for axis, size in enumerate(constant.shape):
            if size > 1 and constant.dtype.kind == "f":
                assert f"{name}[{axis}]" in grouped | pinned
    assert all(p.reason for p in report.pinned)


def test_proofs_and_provenance(result):
    report = result.report
    assert report.law_error is not None
    assert 0 < report.law_error <= 1e-5
    assert report.rewrite_error <= 1e-4
    assert report.command == "a command"
    assert set(report.versions) >= {"graphprune", "onnx", "networkx", "numpy", "apache-tvm", "onnx-graphsurgeon"}
    assert report.input_shapes == {"image": (1, 1, 28, 28)}
    again = msgspec.json.decode(reports.to_json(report), type=reports.Report)
    assert again == report
