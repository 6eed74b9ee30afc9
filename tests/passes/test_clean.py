"""What does nothing goes; the interface stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.model import Model, load
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from passes.clean import Clean
from tests.law import net


def cleaned(body: str, outputs: str = "y", opset: int = 17, **weights: object) -> Model:
    before = load(net(body, outputs=outputs, opset=opset, **weights))  # type: ignore[arg-type]
    after = Clean()(State(before)).model
    inputs = seeded_inputs(before)
    first, second = Runner(before)(inputs), Runner(after)(inputs)
    assert list(first) == list(second)
    assert all(np.array_equal(first[n], second[n]) for n in first)
    return after


@pytest.mark.parametrize(
    ("body", "weights", "left"),
    [
        ("t = Identity(x)\ny = Relu(t)", {}, ["Relu"]),
        ("t = Relu(x)\ny = Identity(t)", {}, ["Relu"]),
        ("y = Identity(x)", {}, ["Identity"]),
        ("t = Identity(x)\nu = Identity(t)\ny = Identity(u)", {}, ["Identity"]),
        ("t = Relu(x)\nu = Dropout(t)\ny = Sigmoid(u)", {}, ["Relu", "Sigmoid"]),
        ("t = Relu(x)\nu, m = Dropout(t)\nc = Cast<to=1>(m)\ny = Mul(u, c)", {}, ["Relu", "Dropout", "Cast", "Mul"]),
        ("p = Pad(x, k)\ny = Relu(p)", {"k": np.zeros(8, np.int64)}, ["Relu"]),
        ("p = Pad(x, k)\ny = Relu(p)", {"k": np.array([0, 0, 0, 0, 0, 0, 0, 1])}, ["Pad", "Relu"]),
        ("t = Transpose<perm=[0,1,2,3]>(x)\ny = Relu(t)", {}, ["Relu"]),
        ("t = Transpose<perm=[0,1,3,2]>(x)\ny = Relu(t)", {}, ["Transpose", "Relu"]),
        ("t = Relu(x)\nu = Sigmoid(x)\ny = Tanh(t)", {}, ["Relu", "Tanh"]),
        ("t = Identity(k)\ny = Mul(x, t)", {"k": (1,)}, ["Mul"]),
        ("t = Relu(x)\nu = Identity(t)\nv = Identity(t)\ny = Add(u, v)", {}, ["Relu", "Add"]),
    ],
)
def test_bypasses(body: str, weights: dict[str, object], left: list[str]) -> None:
    assert [n.op for n in cleaned(body, **weights).graph.nodes] == left


def test_pad_attributes() -> None:
    assert [n.op for n in cleaned("p = Pad<pads=[0,0,0,0,0,0,0,0]>(x)\ny = Relu(p)", opset=9).graph.nodes] == ["Relu"]


def test_outputs_keep_their_names() -> None:
    after = cleaned("t = Relu(x)\ny = Identity(t)\nz = Sigmoid(t)", outputs="y z")
    assert sorted(n.op for n in after.graph.nodes) == ["Relu", "Sigmoid"]
    assert [o.name for o in after.graph.outputs] == ["y", "z"]


def test_one_value_under_two_output_names() -> None:
    after = cleaned("t = Relu(x)\ny = Identity(t)\nz = Identity(t)", outputs="y z")
    assert sorted(n.op for n in after.graph.nodes) == ["Identity", "Relu"]


def test_an_output_that_copies_another_output() -> None:
    after = cleaned("y = Relu(x)\nz = Identity(y)", outputs="y z")
    assert [n.op for n in after.graph.nodes] == ["Relu", "Identity"]


def test_nothing_to_do_returns_the_same_state() -> None:
    state = State(load(net("y = Relu(x)")))
    assert Clean()(state) is state
