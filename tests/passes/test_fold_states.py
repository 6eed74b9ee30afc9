"""States that say nothing: zeros that are there without being given, and what a loop hands on unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphprune.groups import analyse
from graphprune.model import Model, load
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from tests.law import assert_law, brief, net

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


STEP = """
    f = MatMul({read}, {wx})
    g = MatMul(s, {wh})
    fg = Add(f, g)
    r = Tanh(fg)
    o = Identity(r)
"""
LOOP = """
    h, gx, gh, k = Loop(n, , z, wx, wh) <body = step (int64 i, bool on, float[2,6] s, float[3,6] vx, float[6,6] vh)
        => (bool again, float[2,6] r, float[3,6] vx, float[6,6] vh, float[2,6] o)
        {{ again = Identity(on)\nv = Gather<axis=0>(x, i)\n{step} }}>
"""
SIZES = {"inputs": "float[5,2,3] x", "wx": (3, 6), "wh": (6, 6), "b": (6, 4), "n": np.array(5)}


def released(body: str, *, outcome: str = "", **more: object) -> tuple[Model, Model]:
    """A model before and after; ``outcome`` is an output besides y."""
    known = "float[2,6] h, float[3,6] gx, float[6,6] gh, float[5,2,6] k"
    proto = net(body, **{"known": known, **SIZES, "z": np.zeros((2, 6), np.float32), **more})  # type: ignore[arg-type]
    proto.graph.output.extend([helper.make_tensor_value_info(outcome, TensorProto.FLOAT, (3, 6))] if outcome else [])
    model = load(proto)
    after, records = run(State(model), parse("fold_states"))
    assert all(r.agreement is None or r.agreement.holds for r in records)
    return model, after.model


def test_weights_that_a_loop_hands_on_are_read_from_around_it() -> None:
    body = LOOP.format(step=STEP.format(read="v", wx="vx", wh="vh")) + "y = MatMul(k, b)"
    before, after = released(body)
    assert not analyse(before).groups
    assert [brief(g) for g in analyse(after).groups] == ["6 z[1] wx[1] wh[0] wh[1] b[0]"]
    (node,) = (n for n in after.graph.nodes if n.op == "Loop")
    assert [t.name for t in node.outputs] == ["h", "k"]
    assert_law(after)


def test_readers_of_what_a_loop_never_changed_read_what_it_was_given() -> None:
    body = LOOP.format(step=STEP.format(read="v", wx="vx", wh="vh")) + "i = Add(gx, gx)\nj = Slice(k, p, q)\n"
    body += "l = Squeeze(j, p)\ny = MatMul(i, a)"
    _, after = released(body, a=(6, 4), p=np.array([0]), q=np.array([1]))
    (add,) = (n for n in after.graph.nodes if n.op == "Add")
    assert [t.name for t in add.inputs] == ["wx", "wx"]


@pytest.mark.parametrize(
    ("outcome", "after_loop", "left"),
    [
        # What is handed out keeps its name; what lies in another body is known by its name there.
        ("gx", "y = MatMul(k, b)", ["h", "gx", "k"]),
        ("", "u = If(c) <then_branch = p () => (float[3,6] m) { m = Neg(gx) }, "
         "else_branch = q () => (float[3,6] w) { w = Abs(gx) }>\nl = MatMul(k, b)\nj = ReduceMax<keepdims=0>(u)\n"
         "y = Add(l, j)", ["h", "gx", "k"]),
    ],
)  # fmt: skip
def test_what_others_know_by_its_name_stays(outcome: str, after_loop: str, left: list[str]) -> None:
    body = LOOP.format(step=STEP.format(read="v", wx="vx", wh="vh")) + after_loop
    _, after = released(body, outcome=outcome, c=np.array(True))
    (node,) = (n for n in after.graph.nodes if n.op == "Loop")
    assert [t.name for t in node.outputs] == left


def test_what_a_loop_changes_or_hands_out_twice_is_no_constant() -> None:
    body = """
        h, gx, gh, k = Loop(n, , z, wx, wh) <body = step (int64 i, bool on, float[2,6] s, float[3,6] vx, float[6,6] vh)
            => (bool again, float[2,6] r, float[3,6] ux, float[6,6] vh, float[6,6] vh)
            { again = Identity(on)\nv = Gather<axis=0>(x, i)\nux = Neg(vx)\nf = MatMul(v, vx)\ng = MatMul(s, vh)
            fg = Add(f, g)\nr = Tanh(fg) }>
        y = MatMul(h, b)
    """
    before, after = released(body, known="float[2,6] h, float[3,6] gx, float[6,6] gh, float[5,6,6] k")
    assert after is before
