"""Normalisations along consecutive values: of rows (LayerNormalization), of groups of channels, of single channels.

An array is seen as [rows, columns]; each row is brought to mean 0 and variance 1, then scaled and shifted, either
column by column or, where a row is several channels, channel by channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.rows import Shape, emit_reduce
from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp, splat
from graphprune.compiler.targets import Target


def norm_kernel(
    shape: Shape, affine: Shape, columns: int, channels: int, epsilon: float, target: Target
) -> tirx.PrimFunc:
    """The function (x, scale, shift, y) that normalises every `columns` consecutive values.

    Args:
        shape: of x and y.
        affine: shape of scale and shift.
        columns: values normalised together.
        channels: how many channels there are, each with its own scale and shift, and consecutive values of its own; 0
            where every one of the `columns` has its own.
        epsilon: added to the variance.
        target: the machine.
    """
    rows, lanes = math.prod(shape) // columns, target.lanes
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("norm")
        T.func_attr({"tirx.noalias": True})
        x, scale, shift, y = arguments(x=shape, scale=affine, shift=affine, y=shape)
        with Share().serial(rows) as row:
            start = row * columns

            def mean(of: Callable[[Expr, int], Expr]) -> Expr:
                total = emit_reduce(
                    columns, lanes, 0.0, lambda a, b: a + b, lambda c, wide: of(x[ramp(start + c, wide)], wide)
                )
                T.buffer_store(total, total[0] * tirx.const(1 / columns, "float32"), [0])
                return total[0]

            middle = mean(lambda value, wide: value)

            def squared(value: Expr, wide: int) -> Expr:
                off = value - splat(middle, wide)
                return off * off

            variance = mean(squared)
            inverse = T.alloc_buffer((1,), "float32")
            root = tirx.sqrt(variance + tirx.const(epsilon, "float32"))
            T.buffer_store(inverse, tirx.const(1.0, "float32") / root, [0])

            def each(count: int, emit: Callable[[Expr, int], None]) -> None:
                with T.serial(0, count // lanes) as v:
                    emit(v * lanes, lanes)
                with T.serial(0, count % lanes) as c:
                    emit(count // lanes * lanes + c, 1)

            if not channels:

                def by_column(c: Expr, wide: int) -> None:
                    value = (x[ramp(start + c, wide)] - splat(middle, wide)) * splat(inverse[0], wide)
                    T.buffer_store(y, value * scale[ramp(c, wide)] + shift[ramp(c, wide)], [ramp(start + c, wide)])

                each(columns, by_column)
            else:
                groups = rows // shape[0]
                together = channels // groups
                values = columns // together
                with T.serial(0, together) as number:
                    channel, at = row % groups * together + number, start + number * values
                    factor, offset = T.alloc_buffer((1,), "float32"), T.alloc_buffer((1,), "float32")
                    T.buffer_store(factor, scale[channel] * inverse[0], [0])
                    T.buffer_store(offset, shift[channel] - middle * factor[0], [0])

                    def by_channel(c: Expr, wide: int) -> None:
                        value = x[ramp(at + c, wide)] * splat(factor[0], wide) + splat(offset[0], wide)
                        T.buffer_store(y, value, [ramp(at + c, wide)])

                    each(values, by_channel)
    return builder.get()
