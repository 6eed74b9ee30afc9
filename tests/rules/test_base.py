"""The vocabulary that rules are written in."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphprune.rules.base import (
    Call,
    Dim,
    Operand,
    affine,
    alone,
    cover,
    every,
    first,
    never,
    normal_axis,
    reduction,
    scaled,
    set_ints,
    some,
    tie,
    tie_all,
)


def operand(name: str, *shape: int, values: np.ndarray | None = None) -> Operand:
    return Operand(name, shape, gs.Constant(name, values) if values is not None else None)


def test_ties_pair_all_positions_unless_told_otherwise() -> None:
    made = tie(operand("a", 2, 3), 1, operand("b", 3), 0)
    assert (made.a, made.b) == (Dim("a", 1), Dim("b", 0))
    assert made.at_a.tolist() == made.at_b.tolist() == [0, 1, 2]
    with pytest.raises(AssertionError, match="do not pair up"):
        tie(operand("a", 2, 3), 1, operand("b", 2), 0)


def test_tie_all_leaves_out_axes_of_other_sizes() -> None:
    assert [t.a.axis for t in tie_all(operand("a", 2, 3, 4), operand("b", 2, 5, 4))] == [0, 2]


def test_cover_ties_positions_to_themselves() -> None:
    made = cover(operand("a", 5), 0, np.array([1, 4]))
    assert made.a == made.b == Dim("a", 0)
    assert made.at_a.tolist() == made.at_b.tolist() == [1, 4]


def test_a_reduction_ties_positions_to_themselves_and_needs_silence() -> None:
    made = reduction(operand("a", 2, 5), 1)
    assert made.a == made.b == Dim("a", 1)
    assert made.summed


def zeros(*flags: bool) -> np.ndarray:
    return np.array(flags)[:, None]


def test_what_products_and_sums_of_zeros_are() -> None:
    two, three = call({}, operand("a", 1), operand("b", 1)), call({}, *(operand(n, 1) for n in "abc"))
    assert some(two, zeros(True, False))
    assert not some(two, zeros(False, False))
    assert every(two, zeros(True, True))
    assert not every(two, zeros(True, False))
    assert first(two, zeros(True, False))
    assert not first(two, zeros(False, True))
    assert affine(two, zeros(False, True))
    assert not affine(three, zeros(True, True, False))
    assert affine(three, zeros(True, False, True))
    assert not affine(three, zeros(False, False, True))
    assert not never(two, zeros(True, True))
    assert alone(first)(two, zeros(True, False))
    statistics = Call("Op", "op", two.inputs, (operand("y", 1), operand("mean", 1)), {}, 17)
    assert not alone(first)(statistics, zeros(True, False))


@pytest.mark.parametrize(("axis", "rank", "found"), [(1, 4, 1), (-1, 4, 3), (-4, 4, 0), (0, 0, 0)])
def test_axes_count_from_the_front(axis: int, rank: int, found: int) -> None:
    assert normal_axis(axis, rank) == found


def call(attrs: dict[str, object], *inputs: Operand | None) -> Call:
    return Call("Op", "op", inputs, (operand("y", 1),), attrs, 17)


def test_integers_come_from_an_attribute_or_an_input() -> None:
    given = operand("k", 2, values=np.array([3, 4]))
    assert call({"axes": [1, 2]}, None, given).ints("axes", 1) == [1, 2]
    assert call({"axes": 1}).ints("axes", 1) == [1]
    assert call({}, None, given).ints("axes", 1) == [3, 4]
    assert call({}, None, operand("k", 2)).ints("axes", 1) is None
    assert call({}, None, None).ints("axes", 1) is None
    assert call({}).ints("axes", 1) is None


def test_integers_are_put_back_where_they_were() -> None:
    y = gs.Variable("y")
    by_attribute = gs.Node("Op", attrs={"axes": [1]}, outputs=[y])
    set_ints(by_attribute, "axes", 1, [2, 3])
    assert by_attribute.attrs["axes"] == [2, 3]

    shared = gs.Constant("k", np.array([1], np.int32))
    by_input = gs.Node("Op", inputs=[gs.Variable("x"), shared], outputs=[gs.Variable("z")])
    set_ints(by_input, "axes", 1, [5])
    assert by_input.inputs[1].values.tolist() == [5]
    assert by_input.inputs[1].values.dtype == np.int32
    assert shared.values.tolist() == [1], "other nodes may read it"

    without = gs.Node("Op", inputs=[gs.Variable("v")], outputs=[gs.Variable("w")])
    set_ints(without, "axes", 1, [7])
    assert without.inputs[1].values.dtype == np.int64


def test_an_output_is_multiplied_unless_by_one() -> None:
    node = gs.Node("Op", "op", outputs=[y := gs.Variable("y", np.float32)])
    assert list(scaled(node, call({}), 1, np.dtype(np.float32))) == []
    assert node.outputs == [y]
    (product,) = scaled(node, call({}), 2, np.dtype(np.float32))
    assert (product.op, product.outputs, product.inputs[0]) == ("Mul", [y], node.outputs[0])
    assert product.inputs[1].values == 2
