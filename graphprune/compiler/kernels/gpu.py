"""Convolutions and matrix products for graphics processors.

A convolution is a product of its weights with the values under the window, which are gathered slice by slice where
they lie: nothing is copied or padded before. One weight per tap is no product: a thread then computes a few outputs of
a depthwise convolution from what it reads itself.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import block
from graphprune.compiler.kernels.block import Operand, Shared
from graphprune.compiler.kernels.conv import Conv
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.matmul import Matmul
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.kernels.vectors import Expr, arguments, ramp
from graphprune.compiler.kernels.window import Windowed

_THREADS = 128  # of a block that computes a depthwise convolution
_ENOUGH = 1 << 16  # threads that keep a graphics processor busy


@dataclass(frozen=True)
class Order:
    """In which order a convolution's products are summed.

    Tap by tap, all channels of one after the other: a slice then has one tap, and its channels are filled up to whole
    slices. Where that would add much, for images of three colours, channel by channel.
    """

    channels: int
    taps: int
    depth: int

    @property
    def by_taps(self) -> bool:
        """Whether a slice has one tap."""
        return self.taps == 1 or self.filled <= 1.25 * self.channels

    @property
    def filled(self) -> int:
        """Channels, filled up to whole slices."""
        return -(-self.channels // self.depth) * self.depth

    @property
    def whole(self) -> int:
        """Products of an output, with the zeros they are filled up with."""
        return self.taps * self.filled if self.by_taps else -(-self.channels * self.taps // self.depth) * self.depth


def plain(conv: Conv) -> bool:
    """Whether the values under the window are the image as it lies."""
    return conv.taps == 1 and conv.window.image == conv.window.out and not any(conv.window.pad)


def order(conv: Conv, depth: int) -> Order:
    """The order for slices of `depth`."""
    return Order(conv.channels // conv.groups, conv.taps, depth)


def pack_weights(weight: np.ndarray, groups: int, shape: Shared) -> np.ndarray:
    """`weight` [filters, channels/groups, kh, kw] in the order it is read: [group][tile][k][row], flat."""
    filters, channels = weight.shape[0] // groups, weight.shape[1]
    way = Order(channels, math.prod(weight.shape[2:]), shape.block.depth)
    taps = weight.reshape(groups, filters, channels, way.taps)
    if way.by_taps:
        taps = np.pad(taps, ((0, 0), (0, 0), (0, way.filled - channels), (0, 0))).transpose(0, 1, 3, 2)
    rows = taps.reshape(groups, filters, -1)
    rows = np.pad(rows, ((0, 0), (0, shape.down * shape.block.rows - filters), (0, way.whole - rows.shape[2])))
    tiles = rows.reshape(groups, shape.down, shape.block.rows, way.whole).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(tiles, np.float32).ravel()


def conv_kernel(conv: Conv, shape: Shared) -> tirx.PrimFunc:
    """The function (x, packed weights, bias [filters], residual if any, y)."""
    window, pixels = conv.window, conv.pixels
    height, way = shape.block.rows, order(conv, shape.block.depth)
    out = (conv.batch, conv.filters, *window.out)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("conv")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x, w, bias, residual, y = arguments(
            x=(conv.batch, conv.channels, *window.image),
            w=(conv.groups * shape.down * way.whole * height,),
            bias=(conv.filters,),
            residual=out if conv.epilogue.residual else None,
            y=out,
        )

        def weights(number: Expr, first: Expr) -> Operand:
            start = (number % conv.groups * shape.down + first // height) * (way.whole * height)

            def load(number: Expr, k: Expr, m: Expr, lanes: int) -> Expr:
                return w[ramp(start + number * (shape.block.depth * height) + k * height + m, lanes)]

            return Operand(load, lanes=4)

        def finish(number: Expr, m: Expr, n: Expr, value: Expr) -> Expr:
            value = value + bias[number % conv.groups * shape.rows + m]
            return _finished(conv.epilogue, value, residual, (number * shape.rows + m) * pixels + n)

        block.emit(shape, weights, lambda number, first: _gathered(conv, way, x, number, first), finish, y)
    return builder.get()


def _gathered(conv: Conv, way: Order, x: Expr, number: Expr, first: Expr) -> Operand:
    """The values under the window, of the product's group and image, for a tile of pixels from `first` on."""
    window, pixels = conv.window, conv.pixels
    height, width = window.image
    start = number * (way.channels * height * width)  # products are counted by image, then by group

    def tap(number: Expr) -> tuple[Expr, Expr]:
        steps = way.filled // way.depth
        return number // steps, number % steps * way.depth

    def flat(number: Expr) -> tuple[Expr, Expr]:
        return None, number * way.depth

    def load(shared: tuple[Expr, Expr], k: Expr, n: Expr, lanes: int) -> Expr:
        tap, k = shared[0], shared[1] + k
        channel, tap = (k, tap) if tap is not None else (k // way.taps, k % way.taps)
        pixel = first + n
        inside = [channel < way.channels, pixel < pixels]
        if plain(conv):
            at = start + channel * pixels + pixel
        else:
            down, across = tap // window.kernel[1], tap % window.kernel[1]
            row = pixel // window.out[1] * window.stride[0] + down * window.dilation[0] - window.pad[0]
            column = pixel % window.out[1] * window.stride[1] + across * window.dilation[1] - window.pad[1]
            if any(window.pad):
                inside += [row >= 0, row < height, column >= 0, column < width]
            at = start + (channel * height + row) * width + column
        return _or_zero(x[ramp(at, lanes)], *inside)

    return Operand(load, lanes=4 if plain(conv) and pixels % 4 == 0 else 1, slice=tap if way.by_taps else flat)


def _or_zero(value: Expr, *inside: Expr) -> Expr:
    """What is read, or zero where one of the conditions does not hold and nothing may be read."""
    return tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, value.ty.dtype))


def _finished(epilogue: Epilogue, value: Expr, residual: Expr | None, at: Expr) -> Expr:
    """What is written for a sum with its bias."""
    return epilogue.clip(value if residual is None else value + residual[at], 1)


def matmul_kernel(matmul: Matmul, shape: Shared) -> tirx.PrimFunc:
    """The function (a, b, bias, residual if any, out)."""
    rows, columns, depth = matmul.rows, matmul.columns, matmul.depth
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("matmul")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        a, b, bias, residual, out = arguments(
            a=matmul.a_shape,
            b=matmul.b_shape or (depth, columns),
            bias=(columns,),
            residual=matmul.out_shape if matmul.epilogue.residual else None,
            out=matmul.out_shape,
        )

        def left(number: Expr, first: Expr) -> Operand:
            def load(slice_: Expr, k: Expr, m: Expr, lanes: int) -> Expr:
                k, m = slice_ * shape.block.depth + k, first + m
                return _or_zero(a[ramp((number * rows + m) * depth + k, lanes)], k < depth, m < rows)

            return Operand(load, along_k=True, lanes=4 if depth % 4 == 0 else 1)

        def right(number: Expr, first: Expr) -> Operand:
            def load(slice_: Expr, k: Expr, n: Expr, lanes: int) -> Expr:
                k, n = slice_ * shape.block.depth + k, first + n
                value = b[ramp(((number * depth if matmul.b_shape else 0) + k) * columns + n, lanes)]
                return _or_zero(value, k < depth, n < columns)

            return Operand(load, lanes=4 if columns % 4 == 0 else 1)

        def finish(number: Expr, m: Expr, n: Expr, value: Expr) -> Expr:
            return _finished(matmul.epilogue, value + bias[n], residual, (number * rows + m) * columns + n)

        block.emit(shape, left, right, finish, out)
    return builder.get()


def depthwise_kernel(op: Windowed) -> tirx.PrimFunc:
    """The function (x, weight [filters, taps], bias [filters], residual if any, y).

    A thread computes a few outputs beside one another, so that they share what they read; one where outputs are few.
    """
    window, (height, width), (rows, columns) = op.window, op.window.image, op.window.out
    filters = op.channels * op.multiplier
    out = (op.batch, filters, rows, columns)
    wide = next((wide for wide in (4, 2) if math.prod(out) >= wide * _ENOUGH and columns >= wide), 1)
    groups = -(-columns // wide)
    size = op.batch * filters * rows * groups
    down, across = window.kernel
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("depthwise")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        x, weight, bias, residual, y = arguments(
            x=(op.batch, op.channels, height, width),
            weight=(filters, down * across),
            bias=(filters,),
            residual=out if op.epilogue.residual else None,
            y=out,
        )
        sums = T.sblock_alloc_buffer((wide,), "float32", scope="local")
        read = T.sblock_alloc_buffer((1,), "float32", scope="local")
        with (
            T.thread_binding(0, -(-size // _THREADS), thread="blockIdx.x") as group,
            T.thread_binding(0, _THREADS, thread="threadIdx.x") as thread,
        ):
            at = group * _THREADS + thread
            with T.If(at < size), T.Then():
                plane, row, first = at // groups // rows, at // groups % rows, at % groups * wide
                channel = plane % filters
                image = plane // op.multiplier * (height * width)
                for j in range(wide):
                    T.buffer_store(sums, bias[channel], [j])
                for i, place in itertools.product(range(down), _places(window, wide)):
                    line = row * window.stride[0] + i * window.dilation[0] - window.pad[0]
                    column = first * window.stride[1] + place - window.pad[1]
                    inside = (line >= 0, line < height, column >= 0, column < width)
                    T.buffer_store(read, _or_zero(x[image + line * width + column], *inside), [0])
                    for j, tap in itertools.product(range(wide), range(across)):
                        if j * window.stride[1] + tap * window.dilation[1] == place:
                            by = weight[channel * (down * across) + i * across + tap]
                            T.buffer_store(sums, sums[j] + by * read[0], [j])
                for j in range(wide):
                    with T.If(first + j < columns), T.Then():
                        to = (plane * rows + row) * columns + first + j
                        T.buffer_store(y, _finished(op.epilogue, sums[j], residual, to), [to])
    return builder.get()


def _places(window: Window, wide: int) -> list[int]:
    """Columns of the image, from the first one's on, that `wide` outputs beside one another read."""
    taps = itertools.product(range(wide), range(window.kernel[1]))
    return sorted({j * window.stride[1] + tap * window.dilation[1] for j, tap in taps})
