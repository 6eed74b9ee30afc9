"""Vectors, and the arrays that a function takes: the words all kernels are written in."""

from __future__ import annotations

import math
from typing import Any

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx

Expr = Any


def arguments(*int32: str, **shapes: tuple[int, ...] | None) -> tuple[Expr, ...]:
    """Give the function being built arrays of these shapes, float32 but for those named; their values, each as one row.

    A shape that is None stands for an argument this function does without, and gives None.
    """
    dtypes = {name: "int32" if name in int32 else "float32" for name in shapes}
    arrays = {name: T.arg(name, T.buffer(shape, dtypes[name])) for name, shape in shapes.items() if shape is not None}
    rows = {
        name: T.decl_buffer((math.prod(shapes[name] or ()),), dtypes[name], data=array.data)
        for name, array in arrays.items()
    }
    return tuple(rows.get(name) for name in shapes)


def scratch(size: int) -> Expr:
    """Memory for `size` float32 that the function uses and the memory plan places."""
    return T.sblock_alloc_buffer((size,), "float32")


class Share:
    """The part of its work that a call of a function does; without threads that is all of it.

    The function takes two int32 after its other arrays: which part, of how many. All parts may run at the same time,
    each with scratch memory of its own, so no part may read what another one writes.
    """

    def __init__(self) -> None:
        self._numbers = T.sblock_alloc_buffer((2,), "int32")

    def bounds(self, count: int) -> tuple[Expr, Expr]:
        """The first of `count` things to do, and one beyond the last."""
        part, parts = self._numbers[0], self._numbers[1]
        return count * part // parts, count * (part + 1) // parts

    def serial(self, count: int) -> Any:
        """A loop over this part of `count` things."""
        return T.serial(*self.bounds(count))


def ramp(index: Expr, lanes: int) -> Expr:
    """`lanes` consecutive elements from `index`."""
    return tirx.Ramp(index, 1, lanes) if lanes > 1 else index


def splat(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def transposed(rows: list[Expr], lanes: int) -> list[Expr]:
    """As many vectors as they have lanes, turned: lane i of vector j is lane j of vector i. In swaps of halves."""
    step = 1
    while step < lanes:
        low = [i if not i & step else lanes + i - step for i in range(lanes)]
        high = [i + step if not i & step else lanes + i for i in range(lanes)]
        turned = list(rows)
        for i in range(lanes):
            if not i & step:
                pair = [T.alloc_buffer((lanes,), "float32") for _ in range(2)]
                for buffer, order in zip(pair, (low, high), strict=True):
                    T.buffer_store(buffer, tirx.Shuffle([rows[i], rows[i + step]], order), [ramp(0, lanes)])
                turned[i], turned[i + step] = (buffer[ramp(0, lanes)] for buffer in pair)
        rows, step = turned, 2 * step
    return rows
