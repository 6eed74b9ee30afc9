"""Groups: their units, their names, and a reason for everything that stays."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.calls import calls, node_name, operator, rule_of
from graphprune.coupling import couple
from graphprune.groups import analyse
from graphprune.model import load, weights
from graphprune.rules import RULES, Dim, Tie
from tests.law import brief, net

CHAIN = {"a": (6, 3, 1, 1), "b": (2, 6, 1, 1)}


def test_labels_say_which_unit_a_position_belongs_to() -> None:
    body = "t = Conv(x, a)\np = Pad(t, k)\nr = Conv(t, d)\nu = Add(p, r)\ny = Conv(u, b)"
    pads = np.array([0, 2, 0, 0, 0, 0, 0, 0])
    model = load(net(body, a=(3, 3, 1, 1), d=(5, 3, 1, 1), k=pads, b=(2, 5, 1, 1)))
    through, padded = analyse(model).groups
    assert brief(through) == "3 a[0] d[0] d[1] b[1]"
    assert brief(padded) == "2 d[0] b[1]"
    assert through.labels[Dim("t", 1)].tolist() == [0, 1, 2]
    assert through.labels[Dim("p", 1)].tolist() == [-1, -1, 0, 1, 2]
    assert padded.labels[Dim("p", 1)].tolist() == [0, 1, -1, -1, -1]
    assert Dim("t", 1) not in padded.labels


def test_groups_of_one_name_are_numbered() -> None:
    body = "t = Conv(x, a)\np, q = Split<axis=1>(t, k)\nr = Conv(p, d)\ns = Conv(q, e)\ny = Add(r, s)"
    model = load(net(body, a=(6, 3, 1, 1), k=np.array([2, 4]), d=(2, 2, 1, 1), e=(2, 4, 1, 1)))
    assert [(g.name, g.size) for g in analyse(model).groups] == [("a[0]", 2), ("a[0]#2", 4)]


def test_power_sums_over_what_each_unit_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(net("t = Conv(x, a)\ny = Conv(t, b)", **CHAIN))
    (group,) = analyse(model).groups
    a, b = (np.asarray(model.constants[n].values, np.float64) for n in "ab")
    expected = (a**2).sum(axis=(1, 2, 3)) + (b**2).sum(axis=(0, 2, 3))
    for block in (weights.BLOCK, 1):
        monkeypatch.setattr(weights, "BLOCK", block)
        np.testing.assert_allclose(group.power(model, 2), expected, rtol=1e-14)
    assert group.parameters(model) == 3 + 2


def test_power_of_a_unit_with_many_positions() -> None:
    model = load(net("t = Conv(x, a)\nf = Flatten(t)\ny = Gemm(f, w)", a=(3, 3, 1, 1), w=(192, 2)))
    (group,) = analyse(model).groups
    a, w = (np.abs(np.asarray(model.constants[n].values, np.float64)) for n in "aw")
    np.testing.assert_allclose(group.power(model, 1), a.sum(axis=(1, 2, 3)) + w.reshape(3, -1).sum(axis=1), rtol=1e-14)
    assert group.per_unit(Dim("w", 0)) == 64
    assert group.parameters(model) == 3 + 128


def test_integer_tables_are_cut_but_are_no_weights() -> None:
    model = load(
        net(
            "e = Gather(i, x)\nf = Cast<to=1>(e)\ny = MatMul(f, b)",
            inputs="int64[5] x",
            i=np.arange(12).reshape(2, 6),
            b=(6, 2),
        )
    )
    (group,) = analyse(model).groups
    assert brief(group) == "6 b[0]"
    assert Dim("i", 1) in group.labels


def test_a_single_unit_is_no_choice() -> None:
    """Two channels that add up to each other's place can only go together, and then nothing is left."""
    body = "t = Conv(x, a)\ns = Gather<axis=1>(t, k)\nu = Add(t, s)\ny = Conv(u, b)"
    dependencies = analyse(load(net(body, a=(2, 3, 1, 1), k=np.array([1, 0]), b=(2, 2, 1, 1))))
    assert not dependencies.groups
    assert {str(p.dim): p.why for p in dependencies.pinned}["a[0]"] == "a single unit: nothing would be left"


def test_reasons_name_the_node_and_the_axis_it_is_about() -> None:
    proto = net("t = Conv(x, a)\nu = Hardmax<axis=1>(t)\ny = Conv(u, b)", **CHAIN)
    proto.graph.node[1].name = "attention"
    found = {str(p.dim): p for p in analyse(load(proto)).pinned}
    pinned = found["a[0]"]
    assert (pinned.node, pinned.op, pinned.why, str(pinned.via)) == ("attention", "Hardmax", "normalised over", "t[1]")
    assert pinned.size == 6
    assert found["a[1]"].why == "graph input"
    assert found["b[0]"].why == "graph output"


def test_unknown_operators_pin_all_they_touch() -> None:
    proto = net(
        "t = Conv(x, a)\nu = Relu(t)\nv = Conv(u, d)\ny = Conv(v, b)", a=(6, 3, 1, 1), d=(5, 6, 1, 1), b=(2, 5, 1, 1)
    )
    proto.graph.node[1].domain, proto.graph.node[1].op_type = "com.example", "Odd"
    proto.opset_import.add(domain="com.example", version=1)
    dependencies = analyse(load(proto))
    assert dependencies.groups == ()
    reasons = {str(p.dim): p.why for p in dependencies.pinned}
    assert reasons["a[0]"] == "no rule for operator com.example.Odd"


def test_a_rule_can_be_added_for_a_custom_operator() -> None:
    proto = net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", **CHAIN)
    proto.graph.node[1].domain, proto.graph.node[1].op_type = "com.example", "Odd"
    proto.opset_import.add(domain="com.example", version=1)
    model = load(proto)
    odd = model.graph.nodes[1]
    assert operator(odd) == "com.example.Odd"
    assert rule_of(odd) is None
    assert rule_of(odd, {"com.example.Odd": RULES["Relu"]}) is RULES["Relu"]


def test_an_operator_that_is_called_like_a_known_one_is_not_it() -> None:
    proto = net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", **CHAIN)
    proto.graph.node[1].domain = "com.example"
    proto.opset_import.add(domain="com.example", version=1)
    assert analyse(load(proto)).groups == ()


def test_sizes_that_follow_an_open_dimension_stay() -> None:
    body = "t = Conv(x, a)\nr = Transpose<perm=[1,0,2,3]>(t)\nf = Reshape(r, k)\ny = MatMul(b, f)"
    proto = net(body, inputs="float[N,3,8,8] x", a=(6, 3, 1, 1), k=np.array([6, -1]), b=(2, 6))
    dependencies = analyse(load(proto, dim_params={"N": 2}))
    assert [brief(g) for g in dependencies.groups] == ["6 a[0] b[1]"]
    assert {str(p.dim): p.why for p in dependencies.pinned}[
        "f[1]"
    ] == "its size follows a symbolic dimension of an input"


def test_the_dependency_graph_has_axes_and_ties() -> None:
    graph, _ = couple(load(net("t = Conv(x, a)\ny = Conv(t, b)", **CHAIN)))
    assert graph.nodes[Dim("t", 1)]["size"] == 6
    assert {frozenset(edge) for edge in graph.edges()} >= {
        frozenset({Dim("t", 1), Dim("a", 0)}),
        frozenset({Dim("t", 1), Dim("b", 1)}),
    }
    assert all(isinstance(tie, Tie) for *_, tie in graph.edges(data="tie"))


def test_nodes_without_a_name_go_by_their_output() -> None:
    model = load(net("t = Conv(x, a)\ny = Conv(t, b)", **CHAIN))
    assert [node_name(n) for n in model.graph.nodes] == ["t", "y"]


def test_calls_see_shapes_and_omitted_operands() -> None:
    model = load(net("y = Clip(x, , high)", high=np.array(1, np.float32)))
    ((_, call),) = calls(model)
    assert call is not None
    assert call.inputs[1] is None
    assert [o.shape for o in call.present] == [(1, 3, 8, 8), (), (1, 3, 8, 8)]
    assert call.input(7) is None


def test_choices_free_the_most_parameters_before_the_finest_units() -> None:
    """Queries, keys and values by heads, rather than values alone by their width."""
    heads = "{0} = MatMul(x, w{0})\n{0}s = Reshape({0}, split)\n{0}h = Transpose<perm=[0, 2, {1}]>({0}s)\n"
    body = heads.format("q", "1, 3") + heads.format("k", "3, 1") + heads.format("v", "1, 3")
    body += "a = MatMul(qh, kh)\ns = Softmax<axis=-1>(a)\nm = MatMul(s, vh)\nt = Transpose<perm=[0, 2, 1, 3]>(m)\n"
    body += "u = Reshape(t, join)\ny = MatMul(u, o)"
    shapes = {"split": np.array([2, 5, 4, 16]), "join": np.array([2, 5, 64])}
    weights = {"wq": (6, 64), "wk": (6, 64), "wv": (6, 64), "o": (64, 7)}
    (group,) = analyse(load(net(body, inputs="float[2,5,6] x", **shapes, **weights))).groups
    assert brief(group) == "4 wq[1]*16 wk[1]*16 wv[1]*16 o[0]*16"
