"""2-d convolution in NCHW as a register-tiled product: rows are output channels, columns output pixels.

The input is padded once, by a kernel of its own; then for each tile of pixels and chunk of input channels the values
under the window are gathered into a strip of consecutive vectors that all output channels read. Weights are packed by
blocks of output channels, `[block][k][row]`, so that a sparse layer needs only a list of offsets into the strip beside
its values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product, tiling
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.kernels.product import Product, partial_sums
from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target

_SIDE = 4  # sums of a lone pixel side by side, to hide the latency of a multiply-add


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

    def products(self, target: Target) -> list[Product]:
        """Extents of one group's product with every tile, the cheapest first."""
        depth, spare = self.channels // self.groups * self.taps, self._spare(target)
        return tiling.plans(self.filters // self.groups, self.pixels, depth, target, self.taps, spare, lone=True)

    def sparse(self, weight: np.ndarray, target: Target) -> list[Product]:
        """The same where the zeros of `weight`, [filters, channels/groups, kh, kw], are skipped."""
        kept = weight.reshape(self.groups, self.filters // self.groups, -1) != 0
        return tiling.plans_sparse(kept, self.pixels, target, self.taps, spare=self._spare(target), lone=True)

    def _spare(self, target: Target) -> int:
        """What copying whole vectors of output rows may write beyond a row of the strip."""
        return 0 if self.window.one_run else target.lanes


def pack_weights(weight: np.ndarray, groups: int, shape: Product) -> np.ndarray:
    """`weight` [filters, channels/groups, kh, kw] in the order it is read: [group][chunk][block][k][row].

    The last block is filled up with zeros. Returned flat.
    """
    rows, blocks = shape.tile.rows, shape.blocks
    padded = np.zeros((groups, blocks * rows, shape.depth), np.float32)
    padded[:, : shape.rows] = weight.reshape(groups, shape.rows, shape.depth)
    ordered = padded.reshape(groups, blocks, rows, shape.depth).transpose(0, 1, 3, 2)
    parts = [
        ordered[g, :, first : first + shape.chunk].ravel()
        for g in range(groups)
        for first in range(0, shape.depth, shape.chunk)
    ]
    return np.concatenate(parts)


def conv_kernel(conv: Conv, shape: Product, steps: int | None = None) -> tirx.PrimFunc:
    """The function (planes, packed weights, bias [filters], residual if any, y).

    The planes are the images themselves where they need no copy, else what `padding.planes_kernel` makes. With a number
    of `steps` the weights are sparse, and the function is (planes, values, offsets, pointers, bias, …).
    """
    window, pixels, taps = conv.window, conv.pixels, conv.taps
    tile, lanes = shape.tile, shape.tile.lanes
    blocks = shape.blocks
    out_shape = (conv.batch, conv.filters, *window.out)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("conv")
        T.func_attr({"tirx.noalias": True})
        planes, w, offsets, pointers, bias, residual, y = arguments(
            "offsets",
            "pointers",
            planes=(conv.batch, conv.channels, *((window.plane,) if window.copied else window.image)),
            w=(conv.groups * blocks * shape.depth * tile.rows,) if steps is None else (steps, tile.rows),
            offsets=None if steps is None else (steps,),
            pointers=None if steps is None else (conv.groups * shape.chunks * blocks + 1,),
            bias=(conv.filters,),
            residual=out_shape if conv.epilogue.residual else None,
            y=out_shape,
        )
        strip = scratch(shape.chunk * shape.pitch)
        partial, share = partial_sums(shape), Share()
        with T.serial(0, conv.batch) as n, T.serial(0, conv.groups) as g:
            channel = g * (conv.channels // conv.groups) + n * conv.channels
            filters = (n * conv.groups + g) * shape.rows  # before this group's, in y

            def gather(vector: Expr, first: Expr, count: Expr) -> None:
                with T.serial(0, count // taps) as c:
                    source, to = (channel + first // taps + c) * window.plane, c * (taps * shape.pitch)
                    _emit_gather(window, planes, source, strip, to, shape, vector)

            def finish(m: Expr, column: Expr, value: Expr) -> Expr:
                if residual is not None:
                    value = value + residual[ramp((filters + m) * pixels + column, lanes)]
                return conv.epilogue.clip(value, lanes)

            def value(block: Expr, r: int, k: Expr) -> Expr:
                return w[k * tile.rows + r]

            def load(column: Expr, tile_: Expr, k: Expr, inner: Expr, at: Expr) -> Expr:
                row = inner * shape.pitch if offsets is None else offsets[k]
                return strip[ramp(row + at, lanes)]

            def numbered(block: Expr, chunk: Expr, first: Expr, count: Expr) -> tuple[Expr, Expr]:
                if pointers is None:
                    return (g * shape.depth + first) * blocks + block * count, count
                at = (g * shape.chunks + chunk) * blocks + block
                return pointers[at], pointers[at + 1] - pointers[at]

            def beside(block: Expr, rows: int, chunk: Expr, begin: Expr, count: Expr) -> None:
                """The last pixel of a block of output channels, which are the lanes here."""
                height, column = tile.height, pixels - 1
                sums = [T.alloc_buffer((height,), "float32") for _ in range(_SIDE)]
                every = ramp(0, height)
                kept = ramp(shape.rows * shape.width + block * height, height)

                def fresh() -> None:
                    for r in range(rows):
                        T.buffer_store(sums[0], bias[g * shape.rows + block * tile.rows + r], [r])

                def add(total: Expr, inner: Expr) -> None:
                    """What lies behind the rows of `w` fills lanes that are not used."""
                    k = begin + inner
                    row = inner * shape.pitch if offsets is None else offsets[k]
                    term = w[ramp(k * tile.rows, height)] * splat(strip[row + shape.width], height)
                    T.buffer_store(total, total[every] + term, [every])

                def write() -> None:
                    for r in range(rows):
                        at = (filters + block * tile.rows + r) * pixels + column
                        one = sums[0][r] if residual is None else sums[0][r] + residual[at]
                        T.buffer_store(y, conv.epilogue.clip(one, 1), [at])

                for total in sums:
                    T.buffer_store(total, splat(tirx.const(0.0, "float32"), height), [every])
                if partial is None:
                    fresh()
                else:
                    with T.If(chunk == 0):
                        with T.Then():
                            fresh()
                        with T.Else():
                            T.buffer_store(sums[0], partial[kept], [every])
                with T.serial(0, count // _SIDE) as some:
                    for side, total in enumerate(sums):
                        add(total, some * _SIDE + side)
                with T.serial(0, count % _SIDE) as left:
                    add(sums[0], count // _SIDE * _SIDE + left)
                for total in sums[1:]:
                    T.buffer_store(sums[0], sums[0][every] + total[every], [every])
                if partial is None:
                    write()
                else:
                    with T.If(chunk == shape.chunks - 1):
                        with T.Then():
                            write()
                        with T.Else():
                            T.buffer_store(partial, sums[0][every], [kept])

            product.emit(
                shape,
                a=value,
                b=load,
                start=lambda m, column: splat(bias[g * shape.rows + m], lanes),
                finish=finish,
                out=y,
                out_at=lambda m, column, at: (filters + m) * pixels + column,
                part=shape.part(share),
                partial=partial,
                prepare=gather,
                steps=numbered,
                beside=beside,
            )
    return builder.get()


def _emit_gather(
    window: Window, planes: Expr, source: Expr, strip: Expr, to: Expr, shape: Product, vector: Expr
) -> None:
    """Copy one channel's pixels under every tap, from the plane at `source`, into rows of the strip at `to`.

    The pixels are those of the strip that begins with `vector`. Output rows are runs of consecutive input values. Each
    is copied in whole vectors: what is copied too much is overwritten by the next run, or lies in the spare values
    between rows of the strip.
    """
    width, lanes = window.out[1], shape.tile.lanes
    down, across = window.kernel

    def copy(origin: Expr, place: Expr) -> None:
        """One vector of every tap."""
        with T.serial(0, down) as i:
            for j in range(across):
                value = planes[ramp(source + window.tap(i, j) + origin, lanes)]
                T.buffer_store(strip, value, [ramp(to + (i * across + j) * shape.pitch + place, lanes)])

    def copy_run(origin: Expr, place: Expr, vectors: Expr) -> None:
        with T.serial(0, vectors) as v:
            copy(origin + v * lanes, place + v * lanes)

    def copy_pixels(column: Expr, place: int, vectors: Expr) -> None:
        count, step = vectors * lanes + shape.lone, window.stride[0] * window.row
        y, x = column // width, column % width
        lead = width - x  # pixels left in the first output row
        copy_run(y * step + x, place, tirx.min(vectors, (lead + lanes - 1) // lanes))
        with T.serial(0, tirx.max((count - lead + width - 1) // width, 0)) as run:
            at = lead + run * width
            left = tirx.min(-(-width // lanes), (count - at + lanes - 1) // lanes)
            copy_run((y + run + 1) * step, place + at, left)

    if window.one_run:
        if shape.lone:
            copy_run(0, 0, shape.strip + 1)
            return
        copy_run(vector * lanes, 0, shape.strip - 1)
        copy(shape.column(vector + shape.strip - 1), (shape.strip - 1) * lanes)
        return
    if shape.lone or not shape.columns % lanes:
        copy_pixels(vector * lanes, 0, shape.strip)
        return
    last = vector + shape.strip == shape.vectors  # its last vector begins earlier
    copy_pixels(vector * lanes, 0, tirx.Select(last, shape.strip - 1, shape.strip))
    with T.If(last), T.Then():
        copy_pixels(shape.columns - lanes, (shape.strip - 1) * lanes, 1)
