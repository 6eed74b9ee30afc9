"""2-d convolution in NCHW as a register-tiled product: rows are output channels, columns output pixels.

The input is padded once, then for each tile of pixels and chunk of input channels the values under the window are
gathered into a strip of consecutive vectors that all output channels read. Weights are packed by blocks of output
channels, `[block][k][row]`, so that a sparse layer needs only a list of offsets into the strip beside its values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.padding import Window, emit_padded
from graphprune.compiler.kernels.product import Expr, Product, Tile, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target


@dataclass(frozen=True)
class Conv:
    """A convolution of `batch` images, `channels` → `filters` in `groups`."""

    batch: int
    channels: int
    filters: int
    groups: int
    window: Window
    epilogue: Epilogue

    @property
    def taps(self) -> int:
        """Values of one channel under the window."""
        return self.window.kernel[0] * self.window.kernel[1]

    @property
    def pixels(self) -> int:
        """Pixels of one output channel."""
        return self.window.out[0] * self.window.out[1]

    def product(self, target: Target) -> Product:
        """Extents and tile of one group's product."""
        depth = self.channels // self.groups * self.taps
        return product.plan(self.filters // self.groups, self.pixels, depth, target, multiple=self.taps)

    def sparse(self, weight: np.ndarray, target: Target) -> Product:
        """The same where the zeros of `weight`, [filters, channels/groups, kh, kw], are skipped."""
        kept = weight.reshape(self.groups, self.filters // self.groups, -1) != 0
        return product.plan_sparse(kept, self.pixels, target, multiple=self.taps)


def pack_weights(weight: np.ndarray, groups: int, shape: Product) -> np.ndarray:
    """`weight` [filters, channels/groups, kh, kw] as [groups, block, k, row], the last block filled up with zeros."""
    rows = shape.tile.rows
    blocks = -(-shape.rows // rows)
    packed = np.zeros((groups, blocks * rows, shape.depth), np.float32)
    packed[:, : shape.rows] = weight.reshape(groups, shape.rows, shape.depth)
    return np.ascontiguousarray(packed.reshape(groups, blocks, rows, shape.depth).transpose(0, 1, 3, 2))


def conv_kernel(conv: Conv, shape: Product, steps: int | None = None) -> tirx.PrimFunc:
    """The function (x, packed weights, bias [filters], residual if any, y).

    With a number of `steps` the weights are sparse, and the function is (x, values, offsets, pointers, bias, …).
    """
    window, pixels, taps = conv.window, conv.pixels, conv.taps
    tile, lanes = shape.tile, shape.tile.lanes
    blocks = shape.blocks
    out_shape = (conv.batch, conv.filters, *window.out)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("conv")
        T.func_attr({"tirx.noalias": True})
        x, w, offsets, pointers, bias, residual, y = arguments(
            "offsets",
            "pointers",
            x=(conv.batch, conv.channels, *window.image),
            w=(conv.groups, blocks, shape.depth, tile.rows) if steps is None else (steps, tile.rows),
            offsets=None if steps is None else (steps,),
            pointers=None if steps is None else (conv.groups * shape.chunks * blocks + 1,),
            bias=(conv.filters,),
            residual=out_shape if conv.epilogue.residual else None,
            y=out_shape,
        )
        planes = scratch(conv.channels * window.plane) if window.copied else x
        strip = scratch(shape.chunk * tile.columns + window.out[1] + lanes)
        narrow = scratch(shape.rows * tile.columns) if shape.narrow else None
        with T.serial(0, conv.batch) as n:
            if window.copied:
                size = window.image[0] * window.image[1]
                with T.serial(0, conv.channels) as c:
                    emit_padded(window, x, (n * conv.channels + c) * size, planes, c * window.plane)
            with T.serial(0, conv.groups) as g:
                channel = g * (conv.channels // conv.groups) + (0 if window.copied else n * conv.channels)
                filters = (n * conv.groups + g) * shape.rows  # before this group's, in y

                def gather(column: Expr, first: Expr, count: Expr) -> None:
                    down, across = window.kernel
                    with T.serial(0, count // taps) as c, T.serial(0, down) as i, T.serial(0, across) as j:
                        source = (channel + first // taps + c) * window.plane + window.tap(i, j)
                        _emit_gather(window, planes, source, column, strip, (c * taps + i * across + j), tile)

                def finish(m: Expr, column: Expr, value: Expr) -> Expr:
                    if residual is not None:
                        value = value + residual[ramp((filters + m) * pixels + column, lanes)]
                    return conv.epilogue.clip(value, lanes)

                def out_at(m: Expr, column: Expr) -> Expr:
                    return (filters + m) * pixels + column if narrow is None else m * tile.columns + column

                def value(block: Expr, r: int, k: Expr) -> Expr:
                    before = 0 if steps is not None else (g * blocks + block) * shape.depth
                    return w[(before + k) * tile.rows + r]

                def load(column: Expr, tile_: Expr, k: Expr, inner: Expr, v: int) -> Expr:
                    at = inner * tile.columns if offsets is None else offsets[k]
                    return strip[ramp(at + v * lanes, lanes)]

                def kept(block: Expr, chunk: Expr) -> tuple[Expr, Expr]:
                    at = (g * shape.chunks + chunk) * blocks + block
                    return pointers[at], pointers[at + 1] - pointers[at]

                product.emit(
                    shape,
                    a=value,
                    b=load,
                    start=lambda m, column: splat(bias[g * shape.rows + m], lanes),
                    finish=finish,
                    out=y if narrow is None else narrow,
                    out_at=out_at,
                    prepare=gather,
                    steps=None if steps is None else kept,
                )
                if narrow is not None:
                    with T.serial(0, shape.rows) as m, T.serial(0, pixels) as p:
                        T.buffer_store(y, narrow[m * tile.columns + p], [(filters + m) * pixels + p])
    return builder.get()


def _emit_gather(window: Window, planes: Expr, source: Expr, column: Expr, strip: Expr, k: Expr, tile: Tile) -> None:
    """Copy the pixels `column … column + tile.columns` under one tap into row `k` of the strip.

    Output rows are runs of consecutive input values. Each is copied in whole vectors, and what is copied too much is
    overwritten by the next run or the next tap.
    """
    width, lanes, to = window.out[1], tile.lanes, k * tile.columns

    def copy(origin: Expr, offset: Expr, vectors: Expr) -> None:
        with T.serial(0, vectors) as v:
            value = planes[ramp(origin + v * lanes, lanes)]
            T.buffer_store(strip, value, [ramp(to + offset + v * lanes, lanes)])

    if width == window.row and window.stride[0] == 1:  # rows follow one another: the pixels are one run
        for v in range(tile.vectors):
            value = planes[ramp(source + column + v * lanes, lanes)]
            T.buffer_store(strip, value, [ramp(to + v * lanes, lanes)])
        return
    down = window.stride[0] * window.row
    y, x = column // width, column % width
    lead = width - x  # pixels left in the first output row
    begin = source + y * down
    copy(begin + x, 0, tirx.min(tile.vectors, (lead + lanes - 1) // lanes))
    with T.serial(0, tirx.max((tile.columns - lead + width - 1) // width, 0)) as run:
        at = lead + run * width
        vectors = tirx.min(-(-width // lanes), (tile.columns - at + lanes - 1) // lanes)
        copy(begin + (run + 1) * down, at, vectors)
