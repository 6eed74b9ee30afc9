"""Tiles fit in registers, those that V8 fills with what a step multiplies among them."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.compiler.kernels import tiling
from graphprune.compiler.targets import resolve


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1024, 49, 1024), (512, 196, 512), (64, 12544, 32), (7, 5, 3)])
@pytest.mark.parametrize(("name", "ahead"), [("wasm32", True), ("x86-64", False), ("aarch64", False)])
def test_tiles_fit(name: str, ahead: bool, rows: int, columns: int, depth: int) -> None:
    target = resolve(name)
    kept = np.random.default_rng(0).random((1, rows, depth)) < 0.3
    dense, sparse = tiling.plans(rows, columns, depth, target), tiling.plans_sparse(kept, columns, target)
    for shape in (*dense, *sparse):
        tile = shape.tile
        taken = tile.rows * tile.vectors + tile.vectors + (tile.rows if ahead else 1)
        assert taken <= target.registers
    assert [shape.cost for shape in dense] == sorted(shape.cost for shape in dense)


@pytest.mark.parametrize(("name", "size", "lone"), [("x86-64", 7, True), ("x86-64", 8, False), ("x86-64", 31, False)])
def test_the_last_pixel_of_an_odd_square_is_left_out_where_that_costs_less(name: str, size: int, lone: bool) -> None:
    best = tiling.plans(512, size * size, 512, resolve(name), lone=True)[0]
    assert best.lone is lone
    assert best.strips * best.width + best.lone >= size * size
    assert not any(shape.lone for shape in tiling.plans(512, size * size, 512, resolve(name)))


def test_eight_rows_are_too_many_for_v8() -> None:
    """Eight sums, a vector and eight weights are 17 values, and V8 spills: 2.6 times the time of 3 × 3 vectors."""
    best = tiling.plan(1024, 49, 1024, resolve("wasm32")).tile
    assert (best.rows, best.vectors) == (3, 3)
