"""Matrix products as register tiles: rows are rows of a, columns are columns of b.

A constant b is packed into column panels when the model is compiled; any other b is read where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.product import Expr, Product, arguments, ramp, scratch
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

    def product(self, target: Target) -> Product:
        """Extents and tile of one product."""
        return product.plan(self.rows, self.columns, self.depth, target)


def _first_column(shape: Product, strip: int) -> int:
    return 0 if shape.narrow else min(strip * shape.tile.columns, shape.columns - shape.tile.columns)


def pack_panels(b: np.ndarray, shape: Product) -> np.ndarray:
    """`b` [depth, columns] as [panel, depth, tile columns]; a panel wider than b is filled up with zeros."""
    width = shape.tile.columns
    panels = -(-shape.columns // width)
    packed = np.zeros((panels, shape.depth, width), np.float32)
    for strip in range(panels):
        at = _first_column(shape, strip)
        panel = b[:, at : at + width]
        packed[strip, :, : panel.shape[1]] = panel
    return packed


def pack_bias(bias: np.ndarray, shape: Product) -> np.ndarray:
    """`bias` [columns], filled up with zeros to a whole tile."""
    return np.pad(bias.astype(np.float32), (0, max(shape.tile.columns - bias.size, 0)))


def matmul_kernel(matmul: Matmul, target: Target) -> tirx.PrimFunc:
    """The function (a, b or its panels, bias, residual if any, out)."""
    shape = matmul.product(target)
    tile, lanes = shape.tile, shape.tile.lanes
    rows, columns, depth = matmul.rows, matmul.columns, matmul.depth
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("matmul")
        T.func_attr({"tirx.noalias": True})
        a, b, bias, residual, out = arguments(
            a=matmul.a_shape,
            b=matmul.b_shape or (-(-columns // tile.columns), depth, tile.columns),
            bias=(max(columns, tile.columns),),
            residual=matmul.out_shape if matmul.epilogue.residual else None,
            out=matmul.out_shape,
        )
        narrow = scratch(rows * tile.columns) if shape.narrow else None
        with T.serial(0, matmul.batch) as n:

            def load_b(column: Expr, strip: Expr, k: Expr, _: Expr, v: int) -> Expr:
                if matmul.b_shape is None:
                    return b[ramp((strip * depth + k) * tile.columns + v * lanes, lanes)]
                return b[ramp((n * depth + k) * columns + column + v * lanes, lanes)]

            def finish(m: Expr, column: Expr, value: Expr) -> Expr:
                if residual is not None:
                    value = value + residual[ramp((n * rows + m) * columns + column, lanes)]
                return matmul.epilogue.clip(value, lanes)

            def out_at(m: Expr, column: Expr) -> Expr:
                return (n * rows + m) * columns + column if narrow is None else m * tile.columns + column

            product.emit(
                shape,
                a=lambda block, r, k: a[(n * rows + block * tile.rows + r) * depth + k],
                b=load_b,
                start=lambda m, column: bias[ramp(column, lanes)],
                finish=finish,
                out=out if narrow is None else narrow,
                out_at=out_at,
            )
            if narrow is not None:
                with T.serial(0, rows) as m, T.serial(0, columns) as column:
                    T.buffer_store(out, narrow[m * tile.columns + column], [(n * rows + m) * columns + column])
    return builder.get()
