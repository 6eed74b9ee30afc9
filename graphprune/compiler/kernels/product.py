"""The register-tiled product that convolutions and matrix products share.

`out[m, n] = finish(start[m, n] + Σ_k a[m, k] · b[k, n])`, in tiles of `rows × vectors` vector registers that stay in
registers over the whole k loop: each step loads `vectors` vectors of b and broadcasts `rows` values of a (Goto & van de
Geijn, "Anatomy of high-performance matrix multiplication", 2008). Columns are tiled outermost, so the strip of b that a
tile reads stays in the first-level cache while all rows pass over it; k is cut in chunks where the strip would not fit.

The last column tile overlaps its neighbour instead of being narrower: the same values are computed twice, and no kernel
needs a masked tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx

from graphprune.compiler.targets import Target

CACHE = 24 * 1024  # bytes of first-level cache for the strip of b
BLOCKS = (1, 2, 4, 8)  # heights of the blocks of a sparse a
_END = 1.0  # issue slots to load and to write one accumulator
_LATENCY = 8  # independent accumulators that hide the latency of a multiply-add

Expr = Any


@dataclass(frozen=True)
class Tile:
    """A register tile of `rows` rows by `vectors` vectors of `lanes` float32."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Columns of the tile."""
        return self.vectors * self.lanes

    def __str__(self) -> str:
        return f"tile {self.rows} × {self.columns}"


@dataclass(frozen=True)
class Product:
    """The static extents of a product and its tile.

    Attributes:
        chunk: how far k goes before the strip of b is changed.
        cost: issue slots that the cost model expects of one product.
    """

    rows: int
    columns: int
    depth: int
    tile: Tile
    chunk: int
    cost: float = 0.0

    @property
    def chunks(self) -> int:
        """How often the strip of b is changed."""
        return -(-self.depth // self.chunk)

    @property
    def blocks(self) -> int:
        """Tiles above one another, the last one maybe not as high."""
        return -(-self.rows // self.tile.rows)

    @property
    def narrow(self) -> bool:
        """True where one tile is wider than the whole output, whose rows are then written through a buffer."""
        return self.columns < self.tile.columns

    @property
    def stride(self) -> int:
        """Distance between rows of what the tiles write."""
        return self.tile.columns if self.narrow else self.columns


def plan(rows: int, columns: int, depth: int, target: Target, multiple: int = 1) -> Product:
    """The product of these extents with the tile that wastes least; `chunk` is a multiple of `multiple`."""

    def planned(tile: Tile) -> Product:
        full, rest = divmod(rows, tile.rows)
        steps = depth * (full * _step(tile.rows, tile.vectors) + (_step(rest, tile.vectors) if rest else 0))
        return _product(rows, columns, depth, tile, steps, multiple)

    return min((planned(tile) for tile in _tiles(rows, target)), key=lambda product: product.cost)


def plan_sparse(kept: np.ndarray, columns: int, target: Target, multiple: int = 1, moved: int = 0) -> Product:
    """The product of a sparse a, with the tile that wastes least.

    Args:
        kept: where a is not zero, bool [groups, rows, depth].
        columns: columns of b.
        target: the machine.
        multiple: what the chunk is a multiple of.
        moved: values that each column of tiles takes one by one to where they belong, per column.
    """
    groups, rows, depth = kept.shape

    def planned(tile: Tile) -> Product:
        steps = sum(
            int(kept[:, at : at + tile.rows].any(1).sum()) * (1 + _step(min(tile.rows, rows - at), tile.vectors))
            for at in range(0, rows, tile.rows)
        )
        return _product(rows, columns, depth, tile, steps / groups + moved * tile.columns, multiple)

    tiles = [
        Tile(rows_, vectors, target.lanes)
        for rows_ in BLOCKS
        for vectors in (1, 2, 3, 4, 6, 8)
        if rows_ <= rows and rows_ * vectors + vectors + 1 <= target.registers
    ]
    return min((planned(tile) for tile in tiles), key=lambda product: product.cost)


def _product(rows: int, columns: int, depth: int, tile: Tile, steps: float, multiple: int) -> Product:
    """The product whose steps through all blocks of one column of tiles cost ``steps``."""
    fits = max(CACHE // (4 * tile.columns), 1)
    chunks = max(-(-depth // fits), 1)
    chunk = -(-depth // (chunks * multiple)) * multiple
    chunks = -(-depth // chunk)
    ends = chunks * -(-rows // tile.rows) * (tile.rows * tile.vectors * _END + 4)
    cost = (steps + 2 * tile.vectors * depth + ends) * -(-columns // tile.columns)
    return Product(rows, columns, depth, tile, chunk, cost)


def _tiles(rows: int, target: Target) -> list[Tile]:
    tiles = []
    for vectors in (1, 2, 3, 4, 6, 8):
        most = (target.registers - vectors - 1) // vectors
        if not most:
            continue
        blocks = -(-rows // most)
        tiles.append(Tile(-(-rows // blocks), vectors, target.lanes))
    return tiles


def _step(rows: int, vectors: int) -> float:
    """Issue slots of one step of k: multiply-adds, never fewer than their latency, and the loads that feed them."""
    return max(rows * vectors, _LATENCY) + 0.25 * (rows + vectors)


def arguments(*int32: str, **shapes: tuple[int, ...] | None) -> tuple[Expr, ...]:
    """Give the function being built arrays of these shapes, float32 but for those named; their values, each as one row.

    A shape that is None stands for an argument this function does without, and gives None.
    """
    dtypes = {name: "int32" if name in int32 else "float32" for name in shapes}
    arrays = {name: T.arg(name, T.buffer(shape, dtypes[name])) for name, shape in shapes.items() if shape is not None}
    rows = {
        name: T.decl_buffer((math.prod(shapes[name] or ()),), dtypes[name], data=array.data)
        for name, array in arrays.items()
    }
    return tuple(rows.get(name) for name in shapes)


def scratch(size: int) -> Expr:
    """Memory for `size` float32 that the function uses and the memory plan places."""
    return T.sblock_alloc_buffer((size,), "float32")


def ramp(index: Expr, lanes: int) -> Expr:
    """`lanes` consecutive elements from `index`."""
    return tirx.Ramp(index, 1, lanes) if lanes > 1 else index


def splat(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def emit(
    product: Product,
    *,
    a: Callable[[Expr, int, Expr], Expr],
    b: Callable[[Expr, Expr, Expr, Expr, int], Expr],
    start: Callable[[Expr, Expr], Expr],
    finish: Callable[[Expr, Expr, Expr], Expr],
    out: Any,
    out_at: Callable[[Expr, Expr], Expr],
    prepare: Callable[[Expr, Expr, Expr], None] | None = None,
    steps: Callable[[Expr, Expr], tuple[Expr, Expr]] | None = None,
    done: Callable[[Expr], None] | None = None,
) -> None:
    """Write the loops of `product` into the function being built.

    Args:
        a: (block of rows, row in the block, k) → scalar.
        b: (column of the tile, tile, k, k within the chunk, vector) → vector.
        start: (row, column) → vector the sum starts from.
        finish: (row, column, sum) → vector to write.
        out: flat buffer written; partial sums pass through it where k is cut.
        out_at: (row, column) → index in `out`.
        prepare: (column of the tile, first k, count of k) emits what brings a strip of b into place.
        steps: (block of rows, chunk) → first step and number of steps, where a is sparse: `a` and `b` are then given
            steps in the place of k. Otherwise every k of the chunk is a step.
        done: (column of the tile) emits what follows once all rows of a tile of columns are written.
    """
    tile, lanes = product.tile, product.tile.lanes
    chunks = product.chunks

    def block(number: Expr, rows: int, column: Expr, strip: Expr, chunk: Expr, first: Expr, count: Expr) -> None:
        sums = [T.alloc_buffer((tile.columns,), "float32") for _ in range(rows)]
        places = [(r, v) for r in range(rows) for v in range(tile.vectors)]

        def at(r: int, v: int) -> tuple[Expr, Expr]:
            return number * tile.rows + r, column + v * lanes

        def set_sums(value: Callable[[int, int], Expr]) -> None:
            for r, v in places:
                T.buffer_store(sums[r], value(r, v), [ramp(v * lanes, lanes)])

        def write(value: Callable[[int, int], Expr]) -> None:
            for r, v in places:
                T.buffer_store(out, value(r, v), [ramp(out_at(*at(r, v)), lanes)])

        def total(r: int, v: int) -> Expr:
            return sums[r][ramp(v * lanes, lanes)]

        if chunks == 1:
            set_sums(lambda r, v: start(*at(r, v)))
        else:
            with T.If(chunk == 0):
                with T.Then():
                    set_sums(lambda r, v: start(*at(r, v)))
                with T.Else():
                    set_sums(lambda r, v: out[ramp(out_at(*at(r, v)), lanes)])
        begin, extent = steps(number, chunk) if steps else (first, count)
        with T.serial(0, extent) as k:
            for r in range(rows):
                value = splat(a(number, r, begin + k), lanes)
                for v in range(tile.vectors):
                    vector = b(column, strip, begin + k, k, v)
                    T.buffer_store(sums[r], total(r, v) + value * vector, [ramp(v * lanes, lanes)])
        if chunks == 1:
            write(lambda r, v: finish(*at(r, v), total(r, v)))
        else:
            with T.If(chunk == chunks - 1):
                with T.Then():
                    write(lambda r, v: finish(*at(r, v), total(r, v)))
                with T.Else():
                    write(total)

    full, rest = divmod(product.rows, tile.rows)
    with T.serial(0, -(-product.columns // tile.columns)) as strip:
        column = strip * 0 if product.narrow else tirx.min(strip * tile.columns, product.columns - tile.columns)
        with T.serial(0, chunks) as chunk:
            first = chunk * product.chunk
            count = tirx.min(product.chunk, product.depth - first)
            if prepare:
                prepare(column, first, count)
            with T.serial(0, full) as number:
                block(number, tile.rows, column, strip, chunk, first, count)
            if rest:
                block(tirx.IntImm("int32", full), rest, column, strip, chunk, first, count)
        if done:
            done(column)
