"""The dependency graph, and the choices that reshapes leave."""

from __future__ import annotations

import numpy as np

from graphprune.coupling import clusters, couple, settle
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import Dim, Tie
from tests.law import assert_law, brief, net

SHUFFLE = """t = Conv(x, a)
s = Reshape(t, split)
p = Transpose<perm=[0,2,1,3,4]>(s)
m = Reshape(p, merged)
d = Conv<group=4>(m, b)
y = Conv(d, c)"""
SHUFFLED = {
    "a": (24, 3, 1, 1),
    "split": np.array([0, 4, 6, 8, 8]),
    "merged": np.array([0, 24, 8, 8]),
    "b": (24, 6, 1, 1),
    "c": (2, 24, 1, 1),
}

HEADS = """q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
q4 = Reshape(q, split)  k4 = Reshape(k, split)  v4 = Reshape(v, split)
qh = Transpose<perm=[0,2,1,3]>(q4)  kh = Transpose<perm=[0,2,3,1]>(k4)  vh = Transpose<perm=[0,2,1,3]>(v4)
scores = MatMul(qh, kh)  p = Softmax<axis=-1>(scores)  o = MatMul(p, vh)
ot = Transpose<perm=[0,2,1,3]>(o)  merged = Reshape(ot, join)  y = MatMul(merged, wo)"""
ATTENTION = {
    "wq": (16, 24),
    "wk": (16, 24),
    "wv": (16, 24),
    "split": np.array([0, 5, 6, 4]),
    "join": np.array([0, 5, 24]),
    "wo": (24, 16),
}


def attention() -> object:
    return load(net(HEADS, inputs="float[1,5,16] x", **ATTENTION))


def test_a_shuffle_goes_by_whichever_axis_frees_more() -> None:
    model = load(net(SHUFFLE, **SHUFFLED))
    groups = analyse(model).groups
    # Positions that the shuffle and the groups after it send to one another are few classes of many.
    assert [brief(g) for g in groups] == ["2 a[0]*12 b[1]*3", "6 b[0]*4 c[1]*4"]
    assert_law(model)


def test_heads_are_units() -> None:
    model = attention()
    assert [brief(g) for g in analyse(model).groups] == ["6 wq[1]*4 wk[1]*4 wv[1]*4 wo[0]*4"]
    assert_law(model)
    why = {str(p.dim): p.why for p in analyse(model).pinned}
    assert why["q4[3]"] == "Reshape joins it with an axis that goes instead"


def test_options_not_taken_are_pinned_and_the_graph_given_stays_as_it_was() -> None:
    graph, choices = couple(attention())
    assert [op for _, op, _ in choices] == ["Reshape"] * 4
    assert [str(option.b) for (option,) in choices[0][2].options] == ["q4[2]", "q4[3]"]
    before = {dim: list(data["pins"]) for dim, data in graph.nodes(data=True)}
    (cluster,) = clusters(graph, choices)
    inner = settle(graph, cluster, innermost=["Reshape"])
    outer = settle(graph, cluster)
    assert inner.ambiguous
    assert outer.ambiguous
    assert Dim("v4", 2) in inner.pins
    assert {dim: data["pins"] for dim, data in graph.nodes(data=True)} == before
    outer.add_to(graph)
    taken = [data["tie"].b for *_, data in graph.edges(data=True) if data["tie"].b in {Dim("v4", 2), Dim("v4", 3)}]
    assert Dim("v4", 2) in taken
    assert graph.nodes[Dim("v4", 3)]["pins"]
    assert not graph.nodes[Dim("v4", 2)]["pins"]
    assert all(isinstance(tie, Tie) for *_, tie in graph.edges(data="tie"))


def test_one_option_that_can_be_cut_is_no_ambiguity() -> None:
    body = "t = Conv(x, a)\nf = Flatten(t)\ny = MatMul(f, b)"
    model = load(net(body, a=(6, 3, 1, 1), b=(384, 2)))
    graph, choices = couple(model)
    assert len(choices) == 1
    assert not settle(graph, *clusters(graph, choices)).ambiguous
    assert [brief(g) for g in analyse(model).groups] == ["6 a[0] b[0]*64"]


def test_nodes_that_nobody_reads_are_analysed_like_others() -> None:
    body = "t = Conv(x, a)\ndead = Conv(t, d)\nlow, high = Split<axis=1>(t)\ny = Conv(high, b)"
    groups = analyse(load(net(body, a=(6, 3, 1, 1), d=(5, 6, 1, 1), b=(4, 3, 1, 1)))).groups
    assert [brief(g) for g in groups] == ["3 a[0] d[1]", "3 a[0] d[1] b[1]", "5 d[0]"]
