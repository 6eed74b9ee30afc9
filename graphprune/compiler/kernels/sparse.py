"""Block-sparse weights: of every block of rows, the columns that any of its rows reads, and nothing else.

In a convolution the rows are output channels and the vectors pixels. A matrix product has its outputs side by side, so
its sparse form works on transposed tiles: rows are outputs, vectors run over the rows of the dense factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product
from graphprune.compiler.kernels.matmul import Matmul
from graphprune.compiler.kernels.product import Product, partial_sums
from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target


@dataclass(frozen=True, eq=False)
class Packed:
    """A sparse a, in the order that `product.emit` walks it.

    Attributes:
        values: float32 [steps, rows of the tile]; rows that a low last block lacks are zero.
        offsets: where in the strip a step's values of b begin, int32 [steps].
        pointers: the first step of each block of rows, per group and chunk; int32 [groups · chunks · blocks + 1].
    """

    values: np.ndarray
    offsets: np.ndarray
    pointers: np.ndarray

    @property
    def steps(self) -> int:
        """How many blocks are kept."""
        return len(self.values)

    def share(self, shape: Product) -> float:
        """Share of the blocks that are kept, of those a dense product of this shape has."""
        groups = (len(self.pointers) - 1) // (shape.chunks * shape.blocks)
        return self.steps / (groups * shape.blocks * shape.depth)

    @property
    def constants(self) -> list[Expr]:
        """The arrays as a kernel takes them."""
        return [relax.const(array) for array in (self.values, self.offsets, self.pointers)]


def pack(a: np.ndarray, shape: Product) -> Packed:
    """`a`, float32 [groups, rows, depth], without its zero blocks."""
    height = shape.tile.rows
    values, offsets, pointers = [], [], [0]
    for group in a:
        for first in range(0, shape.depth, shape.chunk):
            chunk = group[:, first : first + shape.chunk]
            for at in range(0, shape.rows, height):
                block = chunk[at : at + height]
                kept = np.flatnonzero(block.any(0))
                values.append(np.pad(block[:, kept], [(0, height - len(block)), (0, 0)]).T)
                offsets.append(kept * shape.pitch)
                pointers.append(pointers[-1] + len(kept))
    if not pointers[-1]:  # an array must hold something
        values.append(np.zeros((1, height)))
        offsets.append(np.zeros(1, np.int64))
    return Packed(
        np.concatenate(values).astype(np.float32),
        np.concatenate(offsets).astype(np.int32),
        np.array(pointers, np.int32),
    )


def plan_matmul(matmul: Matmul, b: np.ndarray, target: Target) -> Product:
    """Extents and tile of a product that skips the zeros of `b` [depth, columns]."""
    moved = matmul.depth + matmul.columns  # the tile of the dense factor, and that of the result, are transposed
    return product.plan_sparse((b.T != 0)[None], matmul.rows, target, moved=moved)


def matmul_kernel(matmul: Matmul, shape: Product, steps: int) -> tirx.PrimFunc:
    """The function (a, values, offsets, pointers, bias [columns], residual if any, out)."""
    tile, lanes = shape.tile, shape.tile.lanes
    columns, depth = matmul.columns, matmul.depth
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("sparse_matmul")
        T.func_attr({"tirx.noalias": True})
        a, values, offsets, pointers, bias, residual, out = arguments(
            "offsets",
            "pointers",
            a=matmul.a_shape,
            values=(steps, tile.rows),
            offsets=(steps,),
            pointers=(shape.chunks * shape.blocks + 1,),
            bias=(columns,),
            residual=matmul.out_shape if matmul.epilogue.residual else None,
            out=matmul.out_shape,
        )
        strip = scratch(shape.chunk * shape.width)
        turned = scratch(columns * shape.width)
        partial, part = partial_sums(shape), shape.part(Share())
        last = shape.strip - 1

        def each(vector: Expr, emit: Callable[[Expr, Expr], None]) -> None:
            """For every row of a in a strip: which it is, and its place there."""
            with T.serial(0, last * lanes) as m:
                emit(vector * lanes + m, m)
            with T.serial(0, lanes) as m:
                emit(shape.column(vector + last) + m, last * lanes + m)

        def gather(vector: Expr, first: Expr, count: Expr) -> None:
            def turn(row: Expr, m: Expr) -> None:
                with T.serial(0, count) as k:
                    T.buffer_store(strip, a[row * depth + first + k], [k * shape.width + m])

            each(vector, turn)

        def numbered(block: Expr, chunk: Expr, first: Expr, count: Expr) -> tuple[Expr, Expr]:
            at = chunk * shape.blocks + block
            return pointers[at], pointers[at + 1] - pointers[at]

        def write(vector: Expr) -> None:
            begin, end = (block * tile.rows for block in part.blocks)

            def turn(row: Expr, m: Expr) -> None:
                with T.serial(begin, tirx.min(end, columns)) as n:
                    value = turned[n * shape.width + m] + bias[n]
                    if residual is not None:
                        value = value + residual[row * columns + n]
                    T.buffer_store(out, matmul.epilogue.clip(value, 1), [row * columns + n])

            each(vector, turn)

        product.emit(
            shape,
            a=lambda block, r, k: values[k * tile.rows + r],
            b=lambda column, tile_, k, inner, at: strip[ramp(offsets[k] + at, lanes)],
            start=lambda n, column: splat(tirx.const(0.0, "float32"), lanes),
            finish=lambda n, column, value: value,
            out=turned,
            out_at=lambda n, column, at: n * shape.width + at,
            part=part,
            partial=partial,
            prepare=gather,
            steps=numbered,
            done=write,
        )
    return builder.get()
