"""Block-sparse weights: of every block of rows, the columns that any of its rows reads, and nothing else.

In a convolution the rows are output channels and the vectors pixels. A matrix product has its outputs side by side, so
its sparse form works on transposed tiles: rows are outputs, vectors run over the rows of the dense factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product, tiling
from graphprune.compiler.kernels.matmul import Matmul
from graphprune.compiler.kernels.product import Product, partial_sums
from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp, scratch, splat, transposed
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

    @property
    def constants(self) -> list[np.ndarray]:
        """The arrays as a kernel takes them."""
        return [self.values, self.offsets, self.pointers]


def share(a: np.ndarray, shape: Product) -> float:
    """Share of the blocks of `a`, [groups, rows, depth], that hold anything."""
    blocks = np.pad(a, [(0, 0), (0, -a.shape[1] % shape.tile.rows), (0, 0)])
    return float(blocks.reshape(len(a), -1, shape.tile.rows, a.shape[2]).any(2).mean())


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


def plans_matmul(matmul: Matmul, b: np.ndarray, target: Target) -> list[Product]:
    """Extents of a product that skips the zeros of `b` [depth, columns] with every tile, the cheapest first."""
    moved = (matmul.depth + matmul.columns) / 2  # strips of the dense factor and of the result are turned in vectors
    return tiling.plans_sparse((b.T != 0)[None], matmul.rows, target, moved=moved)


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

        def each(count: Expr, emit: Callable[[Expr, bool], None]) -> None:
            """Whole vectors of `count` places, then what is left one by one."""
            with T.serial(0, count // lanes) as v:
                emit(v * lanes, True)
            with T.serial(0, count % lanes) as left:
                emit(count // lanes * lanes + left, False)

        def gather(vector: Expr, first: Expr, count: Expr) -> None:
            """The rows of a under the strip, turned."""
            with T.serial(0, shape.strip) as v:
                row, place = shape.column(vector + v), v * lanes

                def turn(k: Expr, whole: bool) -> None:
                    there = [(row + r) * depth + first + k for r in range(lanes)]
                    if not whole:
                        for r, at in enumerate(there):
                            T.buffer_store(strip, a[at], [k * shape.width + place + r])
                        return
                    values = transposed([a[ramp(at, lanes)] for at in there], lanes)
                    for j, value in enumerate(values):
                        T.buffer_store(strip, value, [ramp((k + j) * shape.width + place, lanes)])

                each(count, turn)

        def numbered(block: Expr, chunk: Expr, first: Expr, count: Expr) -> tuple[Expr, Expr]:
            at = chunk * shape.blocks + block
            return pointers[at], pointers[at + 1] - pointers[at]

        def write(vector: Expr) -> None:
            """Turn the sums back."""
            begin, end = (tirx.min(block * tile.rows, columns) for block in part.blocks)
            with T.serial(0, shape.strip) as v:
                row, place = shape.column(vector + v), v * lanes

                def store(r: int, n: Expr, value: Expr, width: int) -> None:
                    at = ramp((row + r) * columns + n, width)
                    if residual is not None:
                        value = value + residual[at]
                    T.buffer_store(out, matmul.epilogue.clip(value, width), [at])

                def turn(n: Expr, whole: bool) -> None:
                    n = begin + n
                    if not whole:
                        for r in range(lanes):
                            store(r, n, turned[n * shape.width + place + r], 1)
                        return
                    sums = [turned[ramp((n + j) * shape.width + place, lanes)] for j in range(lanes)]
                    for r, value in enumerate(transposed(sums, lanes)):
                        store(r, n, value, lanes)

                each(end - begin, turn)

        product.emit(
            shape,
            a=lambda block, r, k: values[k * tile.rows + r],
            b=lambda column, tile_, k, inner, at: strip[ramp(offsets[k] + at, lanes)],
            start=lambda n, column: splat(bias[n], lanes),
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
