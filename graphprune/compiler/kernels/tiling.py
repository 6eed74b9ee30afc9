"""Which tile and strips a product is cut in: by issue slots, counted for the registers and caches of the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from graphprune.compiler.kernels.product import Product, Tile, tiles_of
from graphprune.compiler.targets import Target

_VECTORS = range(1, 9)  # widths of tiles
_HIGHEST = 8  # rows of a tile: LLVM spills beyond
_WIDEST = 64  # vectors of a strip
_END = 1.5  # issue slots to load and to write one accumulator
_LONE = 3.0  # issue slots of one step of a lone column
_PART = 4.0  # the same for partial sums, which have left the first-level cache
_TURN = 30  # issue slots to leave the loop over k, which is not foreseen, and to begin the next
_LATENCY = 9  # independent accumulators that hide the latency of a multiply-add
_NEAR = 256 * 1024  # bytes of a that stay in the second-level cache from strip to strip
_FAR = 0.08  # issue slots that a byte from beyond costs
CACHE = 24 * 1024  # bytes of first-level cache for the strip of b
BLOCKS = (1, 2, 4, 8)  # heights of the blocks of a sparse a


def plan(rows: int, columns: int, depth: int, target: Target, multiple: int = 1, spare: int = 0) -> Product:
    """The product of these extents with the tile that wastes least; `chunk` is a multiple of `multiple`."""
    return plans(rows, columns, depth, target, multiple, spare)[0]


def plans(
    rows: int, columns: int, depth: int, target: Target, multiple: int = 1, spare: int = 0, lone: bool = False
) -> list[Product]:
    """The same with every tile, each in its best strips, the cheapest first; `lone` as for `plans_sparse`."""
    lanes = _lanes(columns, target)

    def steps(tile: Tile, vectors: int) -> float:
        full, rest = divmod(rows, tile.rows)
        return depth * (full * _step(tile.rows, vectors) + (_step(rest, vectors) if rest else 0))

    tiles = [
        Tile(-(-rows // -(-rows // most)), vectors, lanes)
        for vectors in _VECTORS
        if (most := max((n for n in range(1, _HIGHEST + 1) if _fits(n, vectors, target)), default=0))
    ]
    return _ranked(rows, columns, depth, tiles, steps, lambda tile: 4 * rows * depth, multiple, spare, lone)


def plan_sparse(
    kept: np.ndarray, columns: int, target: Target, multiple: int = 1, moved: float = 0.0, spare: int = 0
) -> Product:
    """The product of a sparse a, with the tile that wastes least.

    Args:
        kept: where a is not zero, bool [groups, rows, depth].
        columns: columns of b.
        target: the machine.
        multiple: what the chunk is a multiple of.
        moved: issue slots that each column takes besides the steps.
        spare: values between two rows of the strip.
    """
    return plans_sparse(kept, columns, target, multiple, moved, spare)[0]


def plans_sparse(
    kept: np.ndarray,
    columns: int,
    target: Target,
    multiple: int = 1,
    moved: float = 0.0,
    spare: int = 0,
    lone: bool = False,
) -> list[Product]:
    """The same with every tile, each in its best strips, the cheapest first.

    With `lone` the last column may be left out of the vectors, where it is one beyond them.
    """
    groups, rows, depth = kept.shape
    lanes = _lanes(columns, target)
    heights = [height for height in BLOCKS if height <= rows]
    entries = {  # (height of the block, its share of the steps)
        height: [
            (min(height, rows - at), int(kept[:, at : at + height].any(1).sum()) / groups)
            for at in range(0, rows, height)
        ]
        for height in heights
    }

    def steps(tile: Tile, vectors: int) -> float:
        return sum(n * (1 + _step(height, vectors)) for height, n in entries[tile.rows]) + moved * vectors * lanes

    def size(tile: Tile) -> float:
        return 4 * (tile.rows + 1) * sum(n for _, n in entries[tile.rows])

    tiles = [
        Tile(height, vectors, lanes) for height in heights for vectors in _VECTORS if _fits(height, vectors, target)
    ]
    return _ranked(rows, columns, depth, tiles, steps, size, multiple, spare, lone)


def _fits(rows: int, vectors: int, target: Target) -> bool:
    """Whether the sums of a tile, and what a step multiplies, have registers."""
    return rows * vectors + vectors + (rows if target.ahead else 1) <= target.registers


def _lanes(columns: int, target: Target) -> int:
    """Lanes of a vector: all that the machine has, or as many as a power of two has within the columns."""
    return min(target.lanes, 1 << (columns.bit_length() - 1))


def _ranked(
    rows: int,
    columns: int,
    depth: int,
    tiles: list[Tile],
    steps: Callable[[Tile, int], float],
    size: Callable[[Tile], float],
    multiple: int,
    spare: int,
    lone: bool,
) -> list[Product]:
    """Every tile in the strips that are cheapest, by cost.

    `steps` is the cost of all steps through the blocks of one column of tiles of so many vectors, for none of a lone
    column, `size` the bytes of a that every strip reads.
    """

    def planned(tile: Tile) -> Iterator[Product]:
        vectors = -(-columns // tile.lanes)
        strips = [(-(-vectors // n), False) for n in range(vectors, 0, -1)]
        if lone and vectors > 1 and columns % tile.lanes == 1:
            strips.append((vectors - 1, True))
        far = reading(size(tile))
        cost_of = {width: steps(tile, width) for width in (tile.vectors, tile.vectors - 1, 0)}
        for strip, alone in dict.fromkeys(strips):
            parts = tiles_of(strip, tile.vectors)
            if not parts or strip > _WIDEST:
                continue
            between = max(spare, tile.lanes) if alone else spare
            fits = max(CACHE // (4 * (strip * tile.lanes + between)), 1)
            chunks = max(-(-depth // fits), 1)
            chunk = -(-depth // (chunks * multiple)) * multiple
            chunks, blocks = -(-depth // chunk), -(-rows // tile.rows)
            end = _END + _PART * (chunks - 1)
            cost = 2 * strip * depth + far
            for n, width in [*parts, *[(1, 0)] * alone]:
                cost += n * (cost_of[width] + blocks * (tile.rows * width * end + chunks * _TURN))
            cost *= 1 if alone else -(-vectors // strip)
            yield Product(rows, columns, depth, tile, strip, chunk, between, alone, cost)

    def cost(product: Product) -> float:
        return product.cost

    found = (min(planned(tile), key=cost, default=None) for tile in tiles)
    return sorted((product for product in found if product), key=cost)


def reading(size: float) -> float:
    """Issue slots to read `size` bytes of a again, where the second-level cache does not keep them."""
    return _FAR * size if size > _NEAR else 0.0


def _step(rows: int, vectors: int) -> float:
    """Issue slots of one step of k: multiply-adds, never fewer than their latency, and the loads that feed them."""
    if not vectors:
        return _LONE
    return max(rows * vectors, rows + vectors, _LATENCY) + 0.25 * (rows + vectors)
