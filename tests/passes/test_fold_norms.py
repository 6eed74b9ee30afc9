"""Scales and shifts of norms go into the products that read them, where nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.model import load
from graphprune.pipeline import parse, run
from graphprune.state import State
from tests.law import net

LN = "n = LayerNormalization<axis=-1>(x, g, h)\n"
WEIGHTS = {"g": (6,), "h": (6,), "a": (6, 5), "b": (5,), "c": (6, 4), "w": (4, 6)}


def folded(body: str, outputs: str = "y", opset: int = 17, x: str = "float[2,3,6] x") -> tuple[State, State]:
    model = load(net(LN + body, inputs=x, outputs=outputs, opset=opset, **WEIGHTS))
    before = State(model)
    after, records = run(before, parse("fold_norms"))  # proves that outputs stay
    assert all(r.agreement is None or r.agreement.error < 1e-6 for r in records)
    return before, after


@pytest.mark.parametrize(
    ("body", "nodes"),
    [
        ("t = MatMul(n, a)\ny = Add(t, b)", ["LayerNormalization", "MatMul", "Add"]),
        ("t = MatMul(n, a)\ny = Relu(t)", ["LayerNormalization", "MatMul", "Add", "Relu"]),
        ("t = MatMul(n, a)\nu = Add(t, b)\nv = MatMul(n, c)\nz = Relu(v)\ny = Concat<axis=-1>(u, z)", None),
    ],
)
def test_scale_and_shift_go_into_the_readers(body: str, nodes: list[str] | None) -> None:
    _, after = folded(body)
    norm = next(n for n in after.model.graph.nodes if n.op == "LayerNormalization")
    assert len(norm.inputs) == 2
    np.testing.assert_array_equal(norm.inputs[1].values, np.ones(6))
    if nodes:
        assert [n.op for n in after.model.graph.nodes] == nodes


@pytest.mark.parametrize("gemm", ["Gemm(n, a, b)", "Gemm(n, c)", "Gemm<transB=1>(n, w)"])
def test_gemm(gemm: str) -> None:
    _, after = folded(f"y = {gemm}", x="float[3,6] x")
    gemms = [n for n in after.model.graph.nodes if n.op == "Gemm"]
    assert len(gemms[0].inputs) == 3
    assert len(after.model.graph.nodes) == 2


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("t = MatMul(n, a)\ny = Add(t, b)\nz = Relu(n)", "y z"),  # something else reads it
        ("y = MatMul(n, a)", "y n"),  # it is an output
        ("t = MatMul(n, a)\nu = MatMul(x, a)\ny = Add(t, u)", "y"),  # the matrix is someone else's too
    ],
)
def test_what_others_read_stays(body: str, outputs: str) -> None:
    before, after = folded(body, outputs)
    assert after is before
