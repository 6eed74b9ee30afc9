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

from graphprune.compile.kernels import product
from graphprune.compile.kernels.epilogue import Epilogue
from graphprune.compile.kernels.padding import Window, emit_padded
from graphprune.compile.kernels.product import Product, ramp, splat
from graphprune.compile.targets import Target


@dataclass(frozen=True)
class Conv:
    """A convolution of `batch` images, `channels` → `filters` in `groups`."""

    batch: int
    channels: int
    filters: int
    groups: int
    window: Window
    epilogue: Epilogue

    def product(self, target: Target) -> Product:
        """Extents and tile of one group's product."""
        taps = self.window.kernel[0] * self.window.kernel[1]
        depth = self.channels // self.groups * taps
        pixels = self.window.out[0] * self.window.out[1]
        return product.plan(self.filters // self.groups, pixels, depth, target, multiple=taps)


def pack_weights(weight: np.ndarray, groups: int, shape: Product) -> np.ndarray:
    """`weight` [filters, channels/groups, kh, kw] as [groups, block, k, row], the last block filled up with zeros."""
    rows = shape.tile.rows
    blocks = -(-shape.rows // rows)
    packed = np.zeros((groups, blocks * rows, shape.depth), np.float32)
    packed[:, : shape.rows] = weight.reshape(groups, shape.rows, shape.depth)
    return np.ascontiguousarray(packed.reshape(groups, blocks, rows, shape.depth).transpose(0, 1, 3, 2))


def conv_kernel(conv: Conv, target: Target) -> tirx.PrimFunc:
    """The function (x, packed weights, bias [filters], residual if any, y)."""
    shape = conv.product(target)
    window, tile, lanes = conv.window, shape.tile, shape.tile.lanes
    height, width = window.image
    pixels = window.out[0] * window.out[1]
    taps = window.kernel[0] * window.kernel[1]
    blocks = -(-shape.rows // tile.rows)
    inputs = conv.channels // conv.groups
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("conv")
        x_ = T.arg("x", T.buffer((conv.batch, conv.channels, height, width), "float32"))
        w_ = T.arg("w", T.buffer((conv.groups, blocks, shape.depth, tile.rows), "float32"))
        bias = T.arg("bias", T.buffer((conv.filters,), "float32"))
        r_ = (
            T.arg("residual", T.buffer((conv.batch, conv.filters, *window.out), "float32"))
            if conv.epilogue.residual
            else None
        )
        y_ = T.arg("y", T.buffer((conv.batch, conv.filters, *window.out), "float32"))
        T.func_attr({"tirx.noalias": True})
        planes = conv.channels * window.plane
        padded = T.sblock_alloc_buffer((planes,), "float32") if window.copied else None
        strip = T.sblock_alloc_buffer((shape.chunk * tile.columns + window.out[1] + lanes,), "float32")
        buffer = T.sblock_alloc_buffer((shape.rows * tile.columns,), "float32") if shape.narrow else None
        x = T.decl_buffer((conv.batch * conv.channels * height * width,), "float32", data=x_.data)
        w = T.decl_buffer((conv.groups * blocks * shape.depth * tile.rows,), "float32", data=w_.data)
        y = T.decl_buffer((conv.batch * conv.filters * pixels,), "float32", data=y_.data)
        residual = (
            T.decl_buffer((conv.batch * conv.filters * pixels,), "float32", data=r_.data) if r_ is not None else None
        )
        with T.serial(0, conv.batch) as n:
            if padded is not None:
                with T.serial(0, conv.channels) as c:
                    emit_padded(window, x, (n * conv.channels + c) * height * width, padded, c * window.plane)
            with T.serial(0, conv.groups) as g:
                origin = g * inputs * window.plane + (0 if padded is not None else n * planes)
                image = padded if padded is not None else x
                row = (n * conv.groups + g) * shape.rows  # of the first output channel

                def gather(column, first, count, image=image, origin=origin):  # type: ignore[no-untyped-def]
                    down, across = window.kernel
                    with T.serial(0, count // taps) as c, T.serial(0, down) as i, T.serial(0, across) as j:
                        source = origin + (first // taps + c) * window.plane + window.tap(i, j)
                        _emit_gather(
                            window, image, source, column, strip, (c * taps + i * across + j) * tile.columns, tile
                        )

                def finish(m, column, value, row=row):  # type: ignore[no-untyped-def]
                    if residual is not None:
                        value = value + residual[ramp((row + m) * pixels + column, lanes)]
                    return conv.epilogue.clip(value, lanes)

                product.emit(
                    shape,
                    a=lambda block, r, k, g=g: w[((g * blocks + block) * shape.depth + k) * tile.rows + r],
                    b=lambda column, t, k, v: strip[ramp(k * tile.columns + v * lanes, lanes)],
                    start=lambda m, column, g=g: splat(bias[g * shape.rows + m], lanes),
                    finish=finish,
                    out=y if buffer is None else buffer,
                    out_at=lambda m, column, row=row: (
                        (row + m) * pixels + column if buffer is None else m * tile.columns + column
                    ),
                    prepare=gather,
                )
                if buffer is not None:
                    with T.serial(0, shape.rows) as m, T.serial(0, pixels) as p:
                        T.buffer_store(y, buffer[m * tile.columns + p], [(row + m) * pixels + p])
    return builder.get()


def _emit_gather(window: Window, image, source, column, strip, to, tile) -> None:  # type: ignore[no-untyped-def]
    """Copy the pixels `column … column + tile.columns` of one tap into the strip at `to`.

    Output rows are runs of consecutive input values. Each is copied in whole vectors, and what is copied too much is
    overwritten by the next run or the next tap.
    """
    width, lanes = window.out[1], tile.lanes

    def copy(origin, target, vectors):  # type: ignore[no-untyped-def]
        with T.serial(0, vectors) as v:
            T.buffer_store(strip, image[ramp(origin + v * lanes, lanes)], [ramp(target + v * lanes, lanes)])

    if width == window.row and window.stride[0] == 1:  # rows follow one another: the pixels are one run
        for v in range(tile.vectors):
            T.buffer_store(strip, image[ramp(source + column + v * lanes, lanes)], [ramp(to + v * lanes, lanes)])
        return
    y, x = column // width, column % width
    down = window.stride[0] * window.row
    begin = source + y * down
    lead = width - x
    copy(begin + x, to, tirx.min(-(-tile.columns // lanes), (lead + lanes - 1) // lanes))
    whole = -(-width // lanes)
    with T.serial(0, tirx.max((tile.columns - lead + width - 1) // width, 0)) as run:
        at = lead + run * width
        copy(begin + (run + 1) * down, to + at, tirx.min(whole, (tile.columns - at + lanes - 1) // lanes))
