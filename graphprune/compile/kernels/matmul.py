"""Matrix products as register tiles: rows are rows of a, columns are columns of b.

A constant b is packed into column panels when the model is compiled; any other b is read where it lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compile.kernels import product
from graphprune.compile.kernels.epilogue import Epilogue
from graphprune.compile.kernels.product import Product, ramp
from graphprune.compile.targets import Target


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
    panels = -(-columns // tile.columns)
    size = matmul.batch * rows * columns
    b_shape = matmul.b_shape or (panels, depth, tile.columns)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("matmul")
        a_ = T.arg("a", T.buffer(matmul.a_shape, "float32"))
        b_ = T.arg("b", T.buffer(b_shape, "float32"))
        bias = T.arg("bias", T.buffer((max(columns, tile.columns),), "float32"))
        r_ = T.arg("residual", T.buffer(matmul.out_shape, "float32")) if matmul.epilogue.residual else None
        out_ = T.arg("out", T.buffer(matmul.out_shape, "float32"))
        T.func_attr({"tirx.noalias": True})
        buffer = T.sblock_alloc_buffer((rows * tile.columns,), "float32") if shape.narrow else None
        a = T.decl_buffer((math.prod(matmul.a_shape),), "float32", data=a_.data)
        b = T.decl_buffer((math.prod(b_shape),), "float32", data=b_.data)
        residual = T.decl_buffer((size,), "float32", data=r_.data) if r_ is not None else None
        out = T.decl_buffer((size,), "float32", data=out_.data)
        with T.serial(0, matmul.batch) as n:

            def load_b(column, strip, k, v, n=n):  # type: ignore[no-untyped-def]
                if matmul.b_shape is None:
                    return b[ramp((strip * depth + k) * tile.columns + v * lanes, lanes)]
                return b[ramp((n * depth + k) * columns + column + v * lanes, lanes)]

            def finish(m, column, value, n=n):  # type: ignore[no-untyped-def]
                if residual is not None:
                    value = value + residual[ramp((n * rows + m) * columns + column, lanes)]
                return matmul.epilogue.clip(value, lanes)

            def out_at(m, column, n=n):  # type: ignore[no-untyped-def]
                return (n * rows + m) * columns + column if buffer is None else m * tile.columns + column

            product.emit(
                shape,
                a=lambda block, r, k, n=n: a[(n * rows + block * tile.rows + r) * depth + k],
                b=load_b,
                start=lambda m, column: bias[ramp(column, lanes)],
                finish=finish,
                out=out if buffer is None else buffer,
                out_at=out_at,
            )
            if buffer is not None:
                with T.serial(0, rows) as m, T.serial(0, columns) as column:
                    T.buffer_store(out, buffer[m * tile.columns + column], [(n * rows + m) * columns + column])
    return builder.get()
