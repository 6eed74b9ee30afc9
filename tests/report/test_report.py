"""The report says what was done, with figures that add up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import graphprune
from graphprune import report as reports
from tests.law import net

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"


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


def test_operators_cost_what_the_models_cost(result):
    report = result.report
    for cost, side in ((report.before, "before"), (report.after, "after")):
        assert sum(getattr(o, side).macs for o in report.operators if o.before) == cost.macs
    first = report.operators[0]
    assert (first.operator, first.before.channels, first.before.macs) == ("Conv", 16, 28 * 28 * 16 * 9)
    widths = {o.node: o.after.channels for o in report.operators if o.after}
    weights = {n.name: n.inputs[1].shape for n in result.model.graph.nodes if n.op == "Conv"}
    assert weights
    assert all(widths[name] == shape[0] for name, shape in weights.items())


def test_members_of_a_group_are_the_operators_its_units_pass(result):
    report = result.report
    names = [o.node for o in report.operators]
    inner = report.groups[1]
    assert inner.name == "2.first.0.weight[0]"
    passed = [(names[m.operator], [str(r) for r in m.roles], [names[k] for k in m.after]) for m in inner.members]
    conv, norm, relu = "/2/first/first.0/Conv", "/2/first/first.1/BatchNormalization", "/2/Relu"
    assert passed == [
        (conv, ["makes"], []),
        (norm, ["carries"], [conv]),
        (relu, ["carries"], [norm]),
        ("/2/second/second.0/Conv", ["reads"], [relu]),
    ]
    spine = report.groups[0]
    makers = [names[m.operator] for m in spine.members if m.roles == ["makes"]]
    assert makers == ["/0/0.0/Conv", *(f"/{k}/second/second.0/Conv" for k in (2, 3, 4))]
    adds = [m for m in spine.members if report.operators[m.operator].operator == "Add"]
    assert [len(m.after) for m in adds] == [2, 2, 2]


def test_an_operator_that_maps_a_group_to_itself_reads_and_makes_it():
    body = "t = Conv(x, a)\nu = Conv(t, w)\nv = Add(t, u)\ny = Conv(v, b)"
    model = net(body, a=(6, 3, 1, 1), w=(6, 6, 1, 1), b=(2, 6, 1, 1))
    (group,) = graphprune.inspect(model).report.groups
    assert [(m.operator, [str(r) for r in m.roles], m.after) for m in group.members] == [
        (0, ["makes"], []),
        (1, ["reads", "makes"], [0]),
        (2, ["carries"], [0, 1]),
        (3, ["reads"], [2]),
    ]


def test_only_a_pass_that_predicts_errors_has_a_tradeoff(result):
    assert result.report.tradeoff is None
