"""The register-tiled product that convolutions and matrix products share.

`out[m, n] = finish(start[m, n] + Σ_k a[m, k] · b[k, n])`, in tiles of `rows × vectors` vector registers that stay in
registers over the whole k loop: each step loads `vectors` vectors of b and broadcasts `rows` values of a (Goto & van de
Geijn, "Anatomy of high-performance matrix multiplication", 2008). The loops are, from the outside: strips of columns,
chunks of k, blocks of rows, tiles. A strip of b, `chunk` high, stays in the first-level cache while all rows pass over
it, and a block of a while all tiles of the strip do: a large a is read once per strip, not once per tile.

Columns are counted in vectors. Where they do not fill the last one it begins earlier and overlaps its neighbour: the
same values are computed twice, and no kernel needs a masked tail. A single column beyond the vectors, which the square
of any odd number has, may instead be left to the caller, for every block of rows. A strip is cut in tiles of `vectors`
and, where that does not divide it, of one vector less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx

from graphprune.compiler.kernels.vectors import Expr, Share, ramp, scratch, splat

_THREADS = (2, 4)  # how many are expected to share a product


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

    @property
    def height(self) -> int:
        """Lanes of a vector that holds a value of every row."""
        return 1 << (self.rows - 1).bit_length()

    def __str__(self) -> str:
        return f"tile {self.rows} × {self.columns}"


@dataclass(frozen=True)
class Part:
    """Some of the strips and of the blocks of rows of a product: the first, and one beyond the last."""

    strips: tuple[Expr, Expr]
    blocks: tuple[Expr, Expr]


@dataclass(frozen=True)
class Product:
    """The static extents of a product and its tile.

    Attributes:
        strip: vectors of a strip, no more than the columns have.
        chunk: how far k goes before the strip of b is changed.
        spare: values that lie between two rows of a strip.
        lone: whether the last column is in no vector, and the caller's to do; there is one strip then.
        cost: issue slots that the cost model expects of one product.
    """

    rows: int
    columns: int
    depth: int
    tile: Tile
    strip: int
    chunk: int
    spare: int = 0
    lone: bool = False
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
    def vectors(self) -> int:
        """Vectors that hold the columns."""
        return -(-(self.columns - self.lone) // self.tile.lanes)

    @property
    def strips(self) -> int:
        """Strips that hold the vectors; the last one may overlap its neighbour."""
        return -(-self.vectors // self.strip)

    @property
    def width(self) -> int:
        """Columns of a strip."""
        return self.strip * self.tile.lanes

    @property
    def pitch(self) -> int:
        """Distance between rows of a strip that is a copy."""
        return self.width + self.spare

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """How many tiles of a strip have how many vectors."""
        return tiles_of(self.strip, self.tile.vectors)

    def part(self, share: Share, rows_only: bool = False) -> Part:
        """What one thread does: some of the strips or, where those are few, some of the blocks of rows.

        Strips are brought into place by every thread that reads them, which counts where rows are few.
        """
        bring = 2 / (self.rows + 2)  # share of the time, by the cost model
        by_strips = sum(_largest(self.strips, threads) for threads in _THREADS)
        by_blocks = sum(bring + (1 - bring) * _largest(self.blocks, threads) for threads in _THREADS)
        if by_strips <= by_blocks and not rows_only:
            return Part(share.bounds(self.strips), (0, self.blocks))
        return Part((0, self.strips), share.bounds(self.blocks))

    @property
    def whole(self) -> Part:
        """All there is to do."""
        return Part((0, self.strips), (0, self.blocks))

    def first(self, strip: Expr) -> Expr:
        """The first vector of a strip."""
        return tirx.min(strip * self.strip, self.vectors - self.strip) if self.strips > 1 else strip * 0

    def column(self, vector: Expr, last: bool = True) -> Expr:
        """Where a vector of columns begins; `last` where it may be the last one, which overlaps its neighbour."""
        column = vector * self.tile.lanes
        overlaps = last and (self.columns - self.lone) % self.tile.lanes
        return tirx.min(column, self.columns - self.tile.lanes) if overlaps else column

    def __str__(self) -> str:
        strips = f", strips of {self.width}" if self.strip > self.tile.vectors else ""
        return f"{self.tile}{strips}{' and one' if self.lone else ''}"


def _largest(count: int, threads: int) -> float:
    """The largest part of `count` things that threads share."""
    return -(-count // threads) / count


def tiles_of(strip: int, vectors: int) -> list[tuple[int, int]]:
    """How many tiles of `vectors` and of one vector less make a strip; none where tiles of less would do."""
    tiles = -(-strip // vectors)
    slim = tiles * vectors - strip
    return [(n, width) for n, width in ((tiles - slim, vectors), (slim, vectors - 1)) if n] if slim < tiles else []


def partial_sums(product: Product) -> Expr:
    """Memory for the sums of a strip between chunks of k, those of a lone column last; None where k is not cut."""
    size = product.rows * product.width + product.lone * product.blocks * product.tile.height
    return scratch(size) if product.chunks > 1 else None


def emit(
    product: Product,
    *,
    a: Callable[[Expr, int, Expr], Expr],
    b: Callable[[Expr, Expr, Expr, Expr, Expr], Expr],
    start: Callable[[Expr, Expr], Expr],
    finish: Callable[[Expr, Expr, Expr], Expr],
    out: Any,
    out_at: Callable[[Expr, Expr, Expr], Expr],
    part: Part,
    partial: Any = None,
    prepare: Callable[[Expr, Expr, Expr], None] | None = None,
    steps: Callable[[Expr, Expr, Expr, Expr], tuple[Expr, Expr]] | None = None,
    beside: Callable[[Expr, int, Expr, Expr, Expr], None] | None = None,
    done: Callable[[Expr], None] | None = None,
) -> None:
    """Write the loops of `product` into the function being built.

    Args:
        a: (block of rows, row in the block, k) → scalar.
        b: (column, strip, k, k within the chunk, column within the strip) → vector.
        start: (row, column) → vector the sum starts from.
        finish: (row, column, sum) → vector to write.
        out: flat buffer written.
        out_at: (row, column, column within the strip) → index in `out`.
        part: the strips and blocks of rows to do.
        partial: from `partial_sums`.
        prepare: (first vector, first k, count of k) emits what brings a strip of b into place.
        steps: (block of rows, chunk, first k, count of k) → first step and number of steps, where those of a block are
            numbered in another way: `a` and `b` are then given steps in the place of k.
        beside: (block of rows, its rows, chunk, first step, number of steps) emits what a lone column takes.
        done: (first vector) emits what follows once all rows of a strip are written.
    """
    tile, lanes = product.tile, product.tile.lanes
    chunks = product.chunks

    def walked(number: Expr, chunk: Expr, k: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
        """The first step of a block of rows in a chunk, and how many there are."""
        begin, extent = steps(number, chunk, *k) if steps else k
        if chunks > 1:
            # Still the extent, which LLVM must not know: it would unroll the loop, and keep sums in memory for that.
            extent = tirx.max(extent, part.strips[0] + part.blocks[0] - product.strips - product.blocks)
        return begin, extent

    def block(
        number: Expr, rows: int, before: Expr, vectors: int, at: Expr, strip: Expr, chunk: Expr, k: tuple[Expr, Expr]
    ) -> None:
        sums = [T.alloc_buffer((vectors * lanes,), "float32") for _ in range(rows)]
        places = [(r, v) for r in range(rows) for v in range(vectors)]

        def column(v: int) -> Expr:
            return product.column(before + at + v, last=v == vectors - 1)

        def set_sums(value: Callable[[int, int], Expr]) -> None:
            for r, v in places:
                T.buffer_store(sums[r], value(r, v), [ramp(v * lanes, lanes)])

        def kept(r: int, v: int) -> Expr:
            return ramp((number * tile.rows + r) * product.width + (at + v) * lanes, lanes)

        def write() -> None:
            for r, v in places:
                place = out_at(number * tile.rows + r, column(v), (at + v) * lanes)
                T.buffer_store(out, finished(r, v), [ramp(place, lanes)])

        def total(r: int, v: int) -> Expr:
            return sums[r][ramp(v * lanes, lanes)]

        def fresh(r: int, v: int) -> Expr:
            return start(number * tile.rows + r, column(v))

        def finished(r: int, v: int) -> Expr:
            return finish(number * tile.rows + r, column(v), total(r, v))

        if chunks == 1:
            set_sums(fresh)
        else:
            with T.If(chunk == 0):
                with T.Then():
                    set_sums(fresh)
                with T.Else():
                    set_sums(lambda r, v: partial[kept(r, v)])
        begin, extent = walked(number, chunk, k)
        with T.serial(0, extent) as inner:
            for r in range(rows):
                value = splat(a(number, r, begin + inner), lanes)
                for v in range(vectors):
                    vector = b(column(v), strip, begin + inner, inner, (at + v) * lanes)
                    T.buffer_store(sums[r], total(r, v) + value * vector, [ramp(v * lanes, lanes)])
        if chunks == 1:
            write()
        else:
            with T.If(chunk == chunks - 1):
                with T.Then():
                    write()
                with T.Else():
                    for r, v in places:
                        T.buffer_store(partial, total(r, v), [kept(r, v)])

    full, rest = divmod(product.rows, tile.rows)
    with T.serial(*part.strips) as strip:
        before = product.first(strip)
        with T.serial(0, chunks) as chunk:
            first = chunk * product.chunk
            k = first, tirx.min(product.chunk, product.depth - first)
            if prepare:
                prepare(before, *k)

            def tiles(number: Expr, rows: int) -> None:
                at = 0
                for n, vectors in product.tiles:
                    with T.serial(0, n) as t:
                        block(number, rows, before, vectors, at + t * vectors, strip, chunk, k)
                    at += n * vectors
                if beside and product.lone:
                    beside(number, rows, chunk, *walked(number, chunk, k))

            begin, end = part.blocks
            with T.serial(begin, tirx.min(end, full)) as number:
                tiles(number, tile.rows)
            if rest:
                with T.If(end == product.blocks), T.Then():
                    tiles(tirx.IntImm("int32", full), rest)
        if done:
            done(before)
