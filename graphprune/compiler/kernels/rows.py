"""Operators along contiguous rows: sums, means and maxima, softmax, and concatenation.

An array is seen as [rows, columns] of consecutive values. Reductions keep one vector of partial results per lane, which
the order of floating-point addition forbids a compiler to do by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp, splat
from graphprune.compiler.targets import Target

_LOWEST = float(np.finfo(np.float32).min)
_GROUP = 4  # vectors reduced side by side, to hide the latency of an addition

Reduction = Literal["mean", "sum", "max"]
Shape = tuple[int, ...]


def _constant(value: float, lanes: int) -> Expr:
    return splat(tirx.const(value, "float32"), lanes)


def emit_reduce(
    columns: int,
    lanes: int,
    identity: float,
    combine: Callable[[Expr, Expr], Expr],
    load: Callable[[Expr, int], Expr],
) -> Expr:
    """Reduce `columns` values; `load` takes a column and how many lanes to read. Returns a buffer of the one result."""
    sums = [T.alloc_buffer((lanes,), "float32") for _ in range(_GROUP)]
    total = T.alloc_buffer((1,), "float32")
    at = ramp(0, lanes)
    for partial in sums:
        T.buffer_store(partial, _constant(identity, lanes), [at])
    T.buffer_store(total, tirx.const(identity, "float32"), [0])
    wide = columns // (_GROUP * lanes)
    with T.serial(0, wide) as c:
        for v, partial in enumerate(sums):
            T.buffer_store(partial, combine(partial[at], load((c * _GROUP + v) * lanes, lanes)), [at])
    vectors = columns // lanes - wide * _GROUP
    with T.serial(0, vectors) as c:
        T.buffer_store(sums[0], combine(sums[0][at], load((wide * _GROUP + c) * lanes, lanes)), [at])
    for partial in sums:
        for lane in range(lanes):
            T.buffer_store(total, combine(total[0], partial[lane]), [0])
    done = columns // lanes * lanes
    with T.serial(0, columns - done) as c:
        T.buffer_store(total, combine(total[0], load(done + c, 1)), [0])
    return total


def reduce_kernel(mode: Reduction, shape: Shape, out_shape: Shape, target: Target) -> tirx.PrimFunc:
    """The function (x, y) that reduces the trailing axes of `shape`; `out_shape` has one value per row."""
    rows = math.prod(out_shape)
    columns = math.prod(shape) // rows
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name(mode)
        T.func_attr({"tirx.noalias": True})
        x, y = arguments(x=shape, y=out_shape)
        with Share().serial(rows) as row:
            total = emit_reduce(
                columns,
                target.lanes,
                _LOWEST if mode == "max" else 0.0,
                tirx.max if mode == "max" else lambda a, b: a + b,
                lambda column, lanes: x[ramp(row * columns + column, lanes)],
            )
            scale = 1 / columns if mode == "mean" else 1.0
            T.buffer_store(y, total[0] * tirx.const(scale, "float32"), [row])
    return builder.get()


def exponential(x: Expr, lanes: int) -> Expr:
    """`exp(x)` for x ≤ 0 as 2ⁿ·p(r), r = x − n·ln 2 (Cody & Waite reduction, Taylor polynomial of degree 6)."""
    x = tirx.max(x, _constant(-87.0, lanes))
    n = tirx.floor(x * _constant(1 / math.log(2), lanes) + _constant(0.5, lanes))
    r = x - n * _constant(0.693359375, lanes)  # ln 2 in two parts: the first has few bits, so the product is exact
    r = r - n * _constant(math.log(2) - 0.693359375, lanes)
    value = _constant(1 / math.factorial(6), lanes)
    for power in range(5, -1, -1):
        value = value * r + _constant(1 / math.factorial(power), lanes)
    suffix = f"x{lanes}" if lanes > 1 else ""
    bits = (tirx.Cast(f"int32{suffix}", n) + splat(tirx.const(127, "int32"), lanes)) << splat(
        tirx.const(23, "int32"), lanes
    )
    return value * tirx.reinterpret(f"float32{suffix}", bits)


def softmax_kernel(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The function (x, y): softmax along the last axis of `shape`."""
    columns = shape[-1]
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("softmax")
        T.func_attr({"tirx.noalias": True})
        x, y = arguments(x=shape, y=shape)
        with Share().serial(math.prod(shape[:-1])) as row:
            start = row * columns
            most = emit_reduce(
                columns, target.lanes, _LOWEST, tirx.max, lambda column, lanes: x[ramp(start + column, lanes)]
            )

            def each(emit: Callable[[Expr, int], None]) -> None:
                done = columns // target.lanes * target.lanes
                with T.serial(0, columns // target.lanes) as c:
                    emit(start + c * target.lanes, target.lanes)
                with T.serial(0, columns - done) as c:
                    emit(start + done + c, 1)

            def exponentiate(at: Expr, lanes: int) -> None:
                value = exponential(x[ramp(at, lanes)] - splat(most[0], lanes), lanes)
                T.buffer_store(y, value, [ramp(at, lanes)])

            each(exponentiate)
            total = emit_reduce(
                columns,
                target.lanes,
                0.0,
                lambda a, b: a + b,
                lambda column, lanes: y[ramp(start + column, lanes)],
            )

            def normalise(at: Expr, lanes: int) -> None:
                scale = splat(tirx.const(1.0, "float32") / total[0], lanes)
                T.buffer_store(y, y[ramp(at, lanes)] * scale, [ramp(at, lanes)])

            each(normalise)
    return builder.get()


def concat_kernel(shapes: list[Shape], axis: int) -> tirx.PrimFunc:
    """The function (each input, y) that joins arrays of `shapes` along `axis`."""
    outer = math.prod(shapes[0][:axis])
    widths = [math.prod(shape[axis:]) for shape in shapes]
    joined = (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("concat")
        T.func_attr({"tirx.noalias": True})
        *inputs, y = arguments(**{f"x{i}": shape for i, shape in enumerate(shapes)}, y=joined)
        with T.serial(0, outer) as row:
            start = 0
            for x, width in zip(inputs, widths, strict=True):
                with T.serial(0, width) as c:
                    T.buffer_store(y, x[row * width + c], [row * sum(widths) + start + c])
                start += width
    return builder.get()
