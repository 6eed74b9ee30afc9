"""Matrix products as register tiles: rows are rows of a, columns are columns of b.

A constant b is packed into column panels when the model is compiled; any other b is read where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product, tiling
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.product import Product, partial_sums
from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp
from graphprune.compiler.targets import Target


@dataclass(frozen=True)
class Matmul:
    """`batch` products of [rows, depth] by [depth, columns].

    Attributes:
        a_shape: shape of the array a, whose row-major values are [batch, rows, depth].
        b_shape: shape of the array b, [batch, depth, columns]; None for one constant b, packed.
        out_shape: shape of the result, [batch, rows, columns].
    """

    batch: int
    rows: int
    columns: int
    depth: int
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...]
    epilogue: Epilogue

    def products(self, target: Target) -> list[Product]:
        """Extents of one product with every tile, the cheapest first."""
        return tiling.plans(self.rows, self.columns, self.depth, target)


def pack_panels(b: np.ndarray, shape: Product) -> np.ndarray:
    """`b` [depth, columns] as [strip, depth, columns of the strip]."""
    lanes = shape.tile.lanes
    first = [min(strip * shape.strip, shape.vectors - shape.strip) for strip in range(shape.strips)]
    vectors = np.add.outer(first, np.arange(shape.strip))
    columns = np.minimum(vectors * lanes, shape.columns - lanes)[:, :, None] + np.arange(lanes)
    return np.ascontiguousarray(b[:, columns.reshape(shape.strips, -1)].transpose(1, 0, 2), np.float32)


def matmul_kernel(matmul: Matmul, shape: Product) -> tirx.PrimFunc:
    """The function (a, b or its panels, bias, residual if any, out)."""
    tile, lanes = shape.tile, shape.tile.lanes
    rows, columns, depth = matmul.rows, matmul.columns, matmul.depth
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("matmul")
        T.func_attr({"tirx.noalias": True})
        a, b, bias, residual, out = arguments(
            a=matmul.a_shape,
            b=matmul.b_shape or (shape.strips, depth, shape.width),
            bias=(columns,),
            residual=matmul.out_shape if matmul.epilogue.residual else None,
            out=matmul.out_shape,
        )
        partial, share = partial_sums(shape), Share()
        with T.serial(0, matmul.batch) as n:

            def load_b(column: Expr, strip: Expr, k: Expr, inner: Expr, at: Expr) -> Expr:
                if matmul.b_shape is None:
                    return b[ramp((strip * depth + k) * shape.width + at, lanes)]
                return b[ramp((n * depth + k) * columns + column, lanes)]

            def finish(m: Expr, column: Expr, value: Expr) -> Expr:
                if residual is not None:
                    value = value + residual[ramp((n * rows + m) * columns + column, lanes)]
                return matmul.epilogue.clip(value, lanes)

            product.emit(
                shape,
                a=lambda block, r, k: a[(n * rows + block * tile.rows + r) * depth + k],
                b=load_b,
                start=lambda m, column: bias[ramp(column, lanes)],
                finish=finish,
                out=out,
                out_at=lambda m, column, at: (n * rows + m) * columns + column,
                part=shape.part(share),
                partial=partial,
            )
    return builder.get()
