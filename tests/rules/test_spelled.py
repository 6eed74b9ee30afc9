"""What takes the place of an operator leaves nothing of it behind."""

from __future__ import annotations

import pytest

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import load
from tests.law import halves, net


@pytest.mark.parametrize(("affine", "last"), [("g, h", "Add"), ("g", "Mul")])
def test_a_spelled_out_norm_is_connected_to_nodes_of_the_graph_alone(affine: str, last: str) -> None:
    weights = {"a": (4, 6), "b": (6, 5), **{name: (6,) for name in affine.split(", ")}}
    body = f"t = MatMul(x, a)\nn = LayerNormalization<axis=-1, epsilon=0.01>(t, {affine})\ny = MatMul(n, b)"
    model = load(net(body, inputs="float[3,4] x", **weights))
    groups = analyse(model).groups
    small = cut(model, gone(groups, halves(groups)))
    nodes = {id(node) for node in small.graph.nodes}
    for node in small.graph.nodes:
        for tensor in (*node.inputs, *node.outputs):
            assert {id(other) for other in (*tensor.inputs, *tensor.outputs)} <= nodes
    (norm,) = next(t for node in small.graph.nodes for t in node.outputs if t.name == "n").inputs
    assert (norm.op, norm.attrs) == (last, {})
