"""Costs by hand, and costs foreseen."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cost import Cost, CostModel, Product
from graphprune.groups import analyse
from graphprune.model import load
from tests.law import net

PROTO = net("t = Conv(x, a, c)\nf = Flatten(t)\ny = Gemm(f, w)", a=(6, 3, 3, 3), c=(6,), w=(216, 4))


def test_by_hand() -> None:
    model = load(PROTO)
    parameters = 6 * 27 + 6 + 216 * 4
    macs = 6 * 36 * 27 + 216 * 4
    assert CostModel(model).at() == Cost(parameters, macs, parameters * 4, 0)
    assert CostModel(model, analyse(model).groups).at().channels == 6


@pytest.mark.parametrize("removed", [0, 1, 5])
def test_foreseen(removed: int) -> None:
    model = load(PROTO)
    left = 6 - removed
    parameters = left * 28 + left * 36 * 4
    macs = left * 36 * 27 + left * 36 * 4
    found = CostModel(model, analyse(model).groups).at({"a[0]": removed})
    assert found == Cost(parameters, macs, parameters * 4, left)


def test_products_one_by_one() -> None:
    model = load(PROTO)
    costs = CostModel(model, analyse(model).groups)
    assert costs.products() == {0: Product(6 * 36 * 27, 6), 2: Product(216 * 4, 4)}
    assert costs.products({"a[0]": 2}) == {0: Product(4 * 36 * 27, 4), 2: Product(4 * 36 * 4, 4)}


def test_a_product_of_computed_tensors_has_no_channels() -> None:
    model = load(net("y = MatMul(x, x)", inputs="float[2,4,4] x"))
    assert CostModel(model).products() == {0: Product(2 * 4 * 4 * 4, None)}


def test_shared_weights_count_once_and_their_products_twice() -> None:
    model = load(net("t = Conv(x, a)\ny = Conv(t, a)", a=(3, 3, 1, 1)))
    assert CostModel(model).at() == Cost(9, 2 * 64 * 9, 36, 0)


def test_both_axes_of_one_weight() -> None:
    """A residual width of 6 down to 4 leaves 4 × 4 of 6 × 6."""
    body = "t = Conv(x, a)\nu = Conv(t, w)\nv = Add(t, u)\ny = Conv(v, b)"
    model = load(net(body, a=(6, 3, 1, 1), w=(6, 6, 1, 1), b=(2, 6, 1, 1)))
    assert CostModel(model, analyse(model).groups).at({"a[0]": 2}).parameters == 12 + 16 + 8


def test_whole_numbers_are_no_parameters() -> None:
    model = load(net("r = Reshape(x, s)\ny = Relu(r)", s=np.array([1, 192])))
    assert CostModel(model).at() == Cost(0, 0, 16, 0)


@pytest.mark.parametrize(("kind", "size"), [(np.float16, 2), (np.float64, 8)])
def test_bytes_follow_the_type(kind: type, size: int) -> None:
    element = {np.float16: "float16", np.float64: "double"}[kind]
    model = load(net("y = MatMul(x, a)", inputs=f"{element}[2,3] x", a=np.ones((3, 5), kind)))
    assert CostModel(model).at() == Cost(15, 30, 15 * size, 0)
