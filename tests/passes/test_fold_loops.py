"""Sequences of known parts are tensors again, and loops that fill them are written out."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import Model, load
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from tests.law import assert_law, brief, net

# `torch.tensor_split(t, (1, 3), dim=2)` as TorchScript writes it.
SPLIT = """
    t = Conv(x, a)
    e = SequenceEmpty()
    s = Loop({trips}, {again}, e) <body = part (int64[{rank}] i, bool on, seq(float[N,6,L,5]) parts)
        => (bool next, seq(float[N,6,K,5]) more)
        {{
            first = Gather<axis=0>(places, i)
            j = Add(i, one)
            last = Gather<axis=0>(places, j)
            p = Slice(t, first, last, axis)
            more = SequenceInsert(parts, p)
            next = Identity({next})
        }}>
    rest = Slice(t, third, end, axis)
    q = SequenceInsert(s, rest)
"""
NUMBERS = {
    "a": (6, 3, 1, 1),
    "b": (4, 6, 1, 1),
    "c": (5, 6, 1, 1),
    "n": np.array(2),
    "true": np.array(True),
    "places": np.array([0, 1, 3]),
    "one": np.array([1]),
    "axis": np.array([2]),
    "third": np.array([3]),
    "end": np.array([9]),
    "zero": np.array(0),
    "two": np.array(2),
}


def folded(body: str, known: str = "float[2,6,1,5] u, float[2,6,K,5] v", **more: object) -> tuple[Model, list[str]]:
    """The model after the pass, which must compute the same, and its operators."""
    model = load(net(body, inputs="float[2,3,7,5] x", known=known, **{**NUMBERS, **more}))  # type: ignore[arg-type]
    after, records = run(State(model), parse("fold_loops"))
    assert all(r.agreement is None or r.agreement.holds for r in records)
    inputs = seeded_inputs(model)
    np.testing.assert_array_equal(Runner(after.model)(inputs)["y"], Runner(model)(inputs)["y"])
    return after.model, [node.op for node in after.model.graph.nodes]


def split(trips: str = "n", again: str = "true", rank: str = "1", following: str = "on") -> str:
    return SPLIT.format(trips=trips, again=again, rank=rank, next=following)


READS = """
    u = SequenceAt(q, zero)
    v = SequenceAt(q, two)
    d = Conv(u, b)
    f = Conv(v, c)
    g = ReduceMean<axes=[2,3]>(d)
    h = ReduceMean<axes=[2,3]>(f)
    y = Concat<axis=1>(g, h)
"""


@pytest.mark.parametrize("following", ["on", "true"])
def test_a_split_along_another_axis_lets_channels_go(following: str) -> None:
    model, operators = folded(split(following=following) + READS)
    assert not {"Loop", "SequenceEmpty", "SequenceInsert", "SequenceAt"} & set(operators)
    assert [brief(group) for group in analyse(model).groups][:1] == ["6 a[0] b[1] c[1]"]
    assert_law(model)


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (split(trips="m") + READS, {}),  # a number of runs that is computed
        (split() + READS.replace("zero)", "w)"), {}),  # a place that is computed
        (split(following="never") + READS.replace("two", "one_"), {"never": np.array(False), "one_": np.array(1)}),
        (split() + READS, {"n": np.array(40), "places": np.arange(41)}),  # more runs than are written out
    ],
)
def test_what_is_not_known_is_left(body: str, more: dict[str, object]) -> None:
    computed = "r = Shape(x)\nm = Gather<axis=0>(r, zero)\nw = Sub(m, n)\n"
    _, operators = folded(computed + body, **more)
    assert "Loop" in operators
    assert "SequenceAt" in operators


def test_sequences_without_a_loop() -> None:
    body = """t = Conv(x, a)
        u = Relu(t)
        s = SequenceConstruct(t, u)
        i = SequenceInsert(s, x2, one_)
        p = SequenceAt(i, back)
        j = ConcatFromSequence<axis=1>(i)
        g = Concat<axis=1>(p, j)
        y = ReduceMean<axes=[2,3]>(g)"""
    _, operators = folded(
        "x2 = Neg(x)\n" + body, "float[2,6,7,5] p, float[2,15,7,5] j", one_=np.array(1), back=np.array(-2)
    )
    assert operators == ["Neg", "Conv", "Relu", "Identity", "Concat", "Concat", "ReduceMean"]


def test_nothing_to_do_returns_the_same_state() -> None:
    state = State(load(net("t = Conv(x, a)\ny = Relu(t)", inputs="float[1,3,4,4] x", a=(6, 3, 1, 1))))
    assert run(state, parse("fold_loops"))[0].model is state.model
