"""Zeros that recurrent layers would take by themselves are not given to them."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.model import load
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from tests.law import net

WEIGHTS = {"w": (1, 16, 3), "r": (1, 16, 4), "p": (4, 2)}
LSTM = "{} o, h = LSTM<hidden_size=4>(x, w, r, , , s, {})\nu = Squeeze(h)\ny = MatMul(u, p)"


@pytest.mark.parametrize(
    ("states", "cell", "given"),
    [
        ("s = Expand(zero, size)", "s", []),
        ("z = ConstantOfShape(size)\ns = Identity(z)\nc = Expand(one, size)", "c", ["c"]),
        ("s = Expand(one, size)\nz = Expand(zero, size)\nc = Concat<axis=0>(z)", "c", ["s"]),
        ("z = Expand(one, size)\ns = Sub(z, z)", "s", ["s", "s"]),
    ],
)
def test_zeros_are_left_out(states: str, cell: str, given: list[str]) -> None:
    numbers = {"zero": np.zeros(1, np.float32), "one": np.ones(1, np.float32), "size": np.array([1, 2, 4])}
    proto = net(LSTM.format(states, cell), inputs="float[5,2,3] x", **WEIGHTS, **numbers)
    model = load(proto)
    after, records = run(State(model), parse("fold_states"))
    node = next(n for n in after.model.graph.nodes if n.op == "LSTM")
    assert [t.name for t in node.inputs[5:] if t.name] == given
    assert (after.model is model) == (len(given) == 2)
    inputs = seeded_inputs(model)
    np.testing.assert_array_equal(Runner(after.model)(inputs)["y"], Runner(model)(inputs)["y"])
    assert all(r.agreement is None or r.agreement.holds for r in records)


def test_zeros_that_something_else_reads_stay() -> None:
    body = "s = Expand(zero, size)\no, h = GRU<hidden_size=4>(x, w, r, , , s)\nt = Add(h, s)\ny = Relu(t)"
    numbers = {"zero": np.zeros(1, np.float32), "size": np.array([1, 2, 4])}
    model = load(net(body, inputs="float[5,2,3] x", w=(1, 12, 3), r=(1, 12, 4), **numbers))
    after, _ = run(State(model), parse("fold_states"))
    assert [n.op for n in after.model.graph.nodes] == ["Expand", "GRU", "Add", "Relu"]
