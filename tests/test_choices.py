"""The law where nearly equal numbers are put in order."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.choices import choices, choosing
from graphprune.cut import cut, gone, zeroed
from graphprune.errors import VerificationError
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.pipeline import Step, parse, run
from graphprune.proof import Runner, compare, seeded_inputs
from graphprune.state import State
from tests.law import net

HIDDEN, BOXES = 48, 60


def detector(**changes: np.ndarray) -> object:
    """Boxes in the order of their scores, every two of which are sums of the same numbers, added up in other orders."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((HIDDEN, BOXES // 2)).astype(np.float32)
    weights = {
        "a": np.repeat(rng.standard_normal((3, 1)), HIDDEN, axis=1).astype(np.float32),
        "b": np.stack([half, half[::-1]], axis=-1).reshape(HIDDEN, BOXES),
        "k": np.array([BOXES]),
        "boxes": rng.standard_normal((BOXES, 4)).astype(np.float32),
        "row": np.array([0]),
    }
    body = """t = MatMul(x, a)  scores = MatMul(t, b)  best, order = TopK(scores, k)
    which = Squeeze(order, row)  y = Gather(boxes, which)  z = Neg(best)"""
    return load(net(body, inputs="float[1,3] x", outputs="y z", **{**weights, **changes}))


def symmetric(model: object) -> dict[str, np.ndarray]:
    """Units whose going leaves every two sums equal."""
    (group,) = analyse(model).groups
    return {group.name: np.r_[2:9, HIDDEN - 9 : HIDDEN - 2]}


def test_the_order_of_nearly_equal_numbers_is_given_and_said() -> None:
    model = detector()
    groups, drop = analyse(model).groups, symmetric(model)
    going = gone(groups, drop)
    small, silent = cut(model, going), zeroed(model, going)
    inputs = seeded_inputs(model)
    reference = Runner(silent, also=["order"])(inputs)
    assert not compare(Runner(small)(inputs), {"y": reference["y"]}, 1e-2).holds, "rounding did not reorder anything"
    given = {"order": reference["order"]}
    assert compare(Runner(choosing(small, given))(inputs), Runner(choosing(silent, given))(inputs), 1e-5).holds
    _, (_, record) = run(State(model), [Step("drop", lambda state: State(model, drop=drop)), *parse("cut")])
    assert record.agreement is not None
    assert record.agreement.given == ["order"]
    assert record.agreement.holds
    assert set(record.agreement.outputs) == {"y", "z"}


def test_no_order_is_given_where_the_numbers_differ() -> None:
    model = detector()

    def wrong(state: State) -> State:
        other = model.constants["b"].values * np.float32(1.001)
        return State(detector(b=np.where(np.arange(BOXES) < 5, other, model.constants["b"].values)))

    with pytest.raises(VerificationError, match="after 'wrong' output"):
        run(State(model), [Step("wrong", wrong)])


def test_choices_name_what_is_chosen_from() -> None:
    assert choices(detector()) == {"order": ("scores", "best")}
    assert choices(load(net("y = Relu(x)"))) == {}
    best = load(net("y, order = TopK(x, k)", inputs="float[1,5] x", k=np.array([2])))
    assert choices(best) == {}, "nobody reads the order"
    body = "n = NonMaxSuppression(boxes, x, k)\nm = Cast<to=1>(n)\ny = ReduceSum<keepdims=0>(m)"
    kept = net(body, inputs="float[1,1,6] x", boxes=np.zeros((1, 6, 4), np.float32), k=np.array([3]))
    assert choices(load(kept)) == {"n": ("x",)}
    inside = """c = ReduceSum<keepdims=0>(x)  b = Cast<to=9>(c)
    n = If (b) <then_branch = t () => (int64[m, 3] p) { p = NonMaxSuppression(boxes, x, k) },
                else_branch = e () => (int64[m, 3] q) { q = Identity(none) }>
    m = Cast<to=1>(n)  y = ReduceSum<keepdims=0>(m)"""
    kept = net(
        inside,
        inputs="float[1,1,6] x",
        boxes=np.zeros((1, 6, 4), np.float32),
        k=np.array([3]),
        none=np.zeros((0, 3), np.int64),
    )
    assert choices(load(kept)) == {"n": ("x",)}
