"""Linear operators as matrix products: the product is the operator, at every position."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphprune.calls import calls, rule_of
from graphprune.model import Model, load
from graphprune.proof import Runner
from graphprune.rules import RULES, Call, Layer, Operand
from tests.law import net

Shapes = dict[str, tuple[int, ...]]
Facts = tuple[int | None, bool, int, int, int]
"""Of a layer: bias, shiftable, summed, parts, taps."""

IMAGE, ROWS = "float[2,6,4,5] x", "float[2,3,6] x"
LAYERS: list[tuple[str, str, Shapes, Facts]] = [
    ("Conv(x, b)", IMAGE, {"b": (4, 6, 1, 1)}, (2, True, 1, 1, 1)),
    (
        "Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, b, d)",
        IMAGE,
        {"b": (4, 6, 3, 2), "d": (4,)},
        (2, True, 1, 1, 6),
    ),
    ("Conv<group=2>(x, b)", IMAGE, {"b": (4, 3, 3, 3)}, (2, True, 1, 2, 9)),
    ("Conv<group=1>(x, b)", "float[2,1,4,5] x", {"b": (4, 1, 3, 3)}, (2, True, 1, 1, 9)),
    ("Conv<pads=[1,2]>(x, b)", "float[2,6,5] x", {"b": (4, 6, 3)}, (2, True, 1, 1, 3)),
    ('Conv<auto_pad="VALID", strides=[1,3]>(x, b)', IMAGE, {"b": (4, 6, 2, 2)}, (2, True, 1, 1, 4)),
    ('Conv<auto_pad="SAME_UPPER", strides=[2,1]>(x, b)', IMAGE, {"b": (4, 6, 3, 3)}, (2, True, 1, 1, 9)),
    ('Conv<auto_pad="SAME_LOWER", strides=[3,1]>(x, b)', IMAGE, {"b": (4, 6, 3, 4)}, (2, True, 1, 1, 12)),
    ('Conv<auto_pad="SAME_LOWER", strides=[3,3]>(x, b)', IMAGE, {"b": (4, 6, 1, 1)}, (2, True, 1, 1, 1)),
    (
        "ConvTranspose<strides=[2,2]>(x, b, d)",
        "float[7,6,4,5] x",
        {"b": (6, 4, 2, 2), "d": (4,)},
        (None, False, 0, 1, 1),
    ),
    ("Gemm(x, b)", "float[3,6] x", {"b": (6, 4)}, (2, True, 0, 1, 1)),
    ("Gemm<transB=1>(x, b, d)", "float[3,6] x", {"b": (4, 6), "d": (4,)}, (2, True, 1, 1, 1)),
    ("Gemm<beta=2.0>(x, b)", "float[3,6] x", {"b": (6, 4)}, (None, True, 0, 1, 1)),
    ("Gemm(x, b, d)", "float[3,6] x", {"b": (6, 4), "d": (3, 4)}, (None, True, 0, 1, 1)),
    ("Gemm(x, b, e)", "float[3,6] x, float[4] e", {"b": (6, 4)}, (None, True, 0, 1, 1)),
    ("MatMul(x, b)", ROWS, {"b": (6, 4)}, (None, True, 0, 1, 1)),
]
NONE: list[tuple[str, str, Shapes]] = [
    ("Conv(x, k)", IMAGE + ", float[4,6,1,1] k", {}),
    ("Conv<group=6>(x, b)", IMAGE, {"b": (6, 1, 3, 3)}),
    ("Conv<group=2>(x, b)", "float[2,2,4,5] x", {"b": (6, 1, 3, 3)}),
    ("ConvTranspose(x, k)", IMAGE + ", float[6,4,1,1] k", {}),
    ("ConvTranspose<group=2>(x, b)", IMAGE, {"b": (6, 4, 1, 1)}),
    ("Gemm(x, k)", "float[3,6] x, float[6,4] k", {}),
    ("Gemm<alpha=2.0>(x, b)", "float[3,6] x", {"b": (6, 4)}),
    ("Gemm<transA=1>(x, b)", "float[6,3] x", {"b": (6, 4)}),
    ("MatMul(x, k)", ROWS + ", float[6,4] k", {}),
    ("MatMul(x, b)", ROWS, {"b": (2, 6, 4)}),
    ("MatMul(x, b)", ROWS, {"b": (6,)}),
]


def read(body: str, inputs: str, weights: Any) -> tuple[Model, gs.Node, Layer | None]:
    model = load(net(f"y = {body}", inputs=inputs, **weights))
    ((node, call),) = calls(model)
    rule = rule_of(node)
    assert rule is not None
    assert call is not None
    return model, node, rule.layer(call)


@pytest.mark.parametrize(("body", "inputs", "weights", "facts"), LAYERS)
def test_unfolding_is_the_operator(body: str, inputs: str, weights: Shapes, facts: Facts) -> None:
    model, node, layer = read(body, inputs, weights)
    assert layer is not None
    assert (layer.bias, layer.shiftable, layer.summed, layer.parts, layer.taps) == facts
    assert (layer.x, layer.y, layer.weight) == ("x", "y", "b")

    given = {name: model.shapes[name] for name in model.inputs}
    values = {name: np.random.default_rng(3).standard_normal(shape).astype(np.float32) for name, shape in given.items()}
    x, weight = values["x"], np.asarray(model.constants["b"].values)
    count = layer.positions(x.shape)
    matrix, rows = layer.matrix(weight), layer.unfold(x, np.arange(count))
    assert rows.shape == (layer.parts, count, matrix.shape[2])
    assert matrix.shape[2] == weight.shape[layer.summed] * layer.taps
    assert np.array_equal(layer.unfold(x, np.array([count - 1, 1])), rows[:, [count - 1, 1]])
    assert np.array_equal(layer.tensor(matrix, weight.shape), weight)

    made = np.concatenate(list(rows @ matrix.swapaxes(1, 2)), axis=1)  # [positions, outputs]
    wanted = Runner(model)(values)["y"]
    if len(node.inputs) > 2:
        bias = values.get("e", np.asarray(getattr(model.constants.get("d"), "values", 0)))
        wanted = wanted - (bias if node.op == "Gemm" else bias.reshape(-1, 1, 1))
    if node.op == "ConvTranspose":
        pixels = made.reshape(7, 4, 5, 4, 2, 2).transpose(0, 3, 1, 4, 2, 5)
        assert pixels.reshape(wanted.shape) == pytest.approx(wanted, abs=1e-5)
    else:
        last = np.moveaxis(wanted, 1, -1) if node.op == "Conv" else wanted
        assert made == pytest.approx(last.reshape(made.shape), abs=1e-5)


@pytest.mark.parametrize("attribute", ["strides", "dilations", "pads"])
def test_a_convolution_that_speaks_of_other_axes_is_no_layer(attribute: str) -> None:
    weight = Operand("b", (4, 6, 1, 1), gs.Constant("b", np.ones((4, 6, 1, 1), np.float32)))
    operands = (Operand("x", (2, 6, 4, 5)), weight), (Operand("y", (2, 4, 4, 5)),)
    assert RULES["Conv"].layer(Call("Conv", "", *operands, {attribute: [1, 1, 1]}, 17)) is None


@pytest.mark.parametrize(("body", "inputs", "weights"), NONE)
def test_what_is_no_product_with_one_constant_matrix_is_no_layer(body: str, inputs: str, weights: Shapes) -> None:
    assert read(body, inputs, weights)[2] is None
