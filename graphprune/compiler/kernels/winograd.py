"""3 × 3 convolution at stride 1 by Winograd's minimal filtering F(m × m, 3 × 3).

m × m outputs of a channel need (m + 2)² products instead of 9·m² (Lavin & Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016): tiles of the image are transformed, each of the (m + 2)² places of a tile is one matrix product
over channels, and its sums are transformed back. Vectors run over the tiles of a row. Rows of tiles are taken a few at
a time where that keeps what is between the steps in the second-level cache; then threads take rows. Where all are taken
at once a kernel of its own transforms the image, which threads share by channels, and the other one by filters.

Filters are transformed when a model is loaded: they are 1.8 (m = 2) or 4 times as large then, which nobody downloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels import product, tiling
from graphprune.compiler.kernels.conv import Conv, pack_weights
from graphprune.compiler.kernels.padding import Window, emit_padded
from graphprune.compiler.kernels.product import Product
from graphprune.compiler.kernels.vectors import Expr, Share, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target

ERROR = 2e-5  # of the largest output: what a layer may lose to the transforms, a fifth of the tolerance of a library
_NEAR = 384 * 1024  # bytes between the steps that stay in the second-level cache
_FRESH = 0.3  # issue slots that each byte more of filters costs to come from main memory, once a run
_MOVES = {True: 0.03, False: 0.12}  # issue slots that a byte between the steps costs there, and beyond

# The transforms of inputs, filters and outputs by m (Lavin & Gray 2016, section 4).
_INPUT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_FILTER: dict[int, list[list[float]]] = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
_OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


@dataclass(frozen=True)
class Winograd:
    """A convolution in tiles of `m` × `m` outputs, `rows` rows of tiles at a time.

    Attributes:
        product: of one place of a tile, over the tiles taken at a time.
        cost: issue slots that the cost model expects of the whole.
    """

    conv: Conv
    m: int
    rows: int
    product: Product
    lanes: int
    cost: float

    @property
    def side(self) -> int:
        """Places along a side of an input tile."""
        return self.m + 2

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows of tiles, and tiles of a row."""
        height, width = self.conv.window.out
        return -(-height // self.m), -(-width // self.m)

    @property
    def pitch(self) -> int:
        """Distance between rows of tiles taken together; whole vectors may be written beyond the last tile."""
        return self.rows * self.tiles[1] + self.lanes

    @property
    def filters(self) -> int:
        """Values of all filters at one place of a tile, with those that fill up the last block."""
        return self.product.blocks * self.product.tile.rows * self.conv.channels

    @property
    def shares_rows(self) -> bool:
        """Whether threads take some rows of tiles each, or some filters each."""
        return -(-self.tiles[0] // self.rows) > 1

    @property
    def window(self) -> Window:
        """An input tile as a window, so that its phases put the same places of neighbouring tiles side by side."""
        step, side = (self.m, self.m), (self.side, self.side)
        return replace(self.conv.window, kernel=side, stride=step, out=self.tiles)

    def __str__(self) -> str:
        return f"Winograd {self.m} × {self.m}, {self.rows} × {self.tiles[1]} tiles at a time, {self.product.tile}"


def plans(conv: Conv, weight: np.ndarray, target: Target) -> Iterator[Winograd]:
    """The ways in tiles that are accurate enough, the cheapest first; none for a convolution of another kind."""
    window = conv.window
    plain = window.kernel == (3, 3) and window.stride == window.dilation == (1, 1) and conv.groups == 1
    if not plain or min(window.out) < 2:
        return
    accurate: dict[int, bool] = {}
    for way in sorted((way for m in _INPUT for way in _ways(conv, m, target)), key=lambda way: way.cost):
        if way.m not in accurate:
            accurate[way.m] = error(weight, way.m) <= ERROR
        if accurate[way.m]:
            yield way


def _ways(conv: Conv, m: int, target: Target) -> list[Winograd]:
    height, width = (-(-size // m) for size in conv.window.out)
    places = (m + 2) ** 2
    lanes = min(target.lanes, 1 << (width - 1).bit_length())
    ways = []
    for rows in range(1, height + 1):
        blocks = -(-height // rows)
        shape = tiling.plan(conv.filters, rows * width, conv.channels, target)
        shape = replace(shape, chunk=conv.channels)
        vectors = blocks * rows * -(-width // lanes)
        between = 4 * places * (conv.channels + conv.filters) * (rows * width + lanes)
        size = 4 * places * conv.channels * conv.filters
        cost = blocks * (places * shape.cost + 2 * _MOVES[between < _NEAR] * between)
        cost += blocks * tiling.reading(size) + _FRESH * size * (1 - 9 / places)
        cost += vectors * places * 5 * (conv.channels + conv.filters)
        ways.append(Winograd(conv, m, rows, shape, lanes, cost))
    return ways


def error(weight: np.ndarray, m: int) -> float:
    """Largest error of float32 tiles on random inputs, as a share of the largest output."""
    side = m + 2
    rng = np.random.default_rng(0)
    image = rng.standard_normal((4, weight.shape[1], side, side))
    places = np.einsum("ai,ncij,bj->abnc", _INPUT[m], image, _INPUT[m]).astype(np.float32)
    filters = transformed(weight, m)
    sums = np.matmul(places.reshape(side, side, 4, -1), filters.transpose(0, 1, 3, 2)).astype(np.float64)
    found = np.einsum("ai,ijnf,bj->nfab", _OUTPUT[m], sums, _OUTPUT[m])
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (2, 3))
    exact = np.einsum("ncabij,fcij->nfab", windows, weight.astype(np.float64), optimize=True)
    largest = np.abs(exact).max()
    return float(np.abs(found - exact).max() / largest) if largest else 0.0


def transformed(weight: np.ndarray, m: int) -> np.ndarray:
    """`weight` [filters, channels, 3, 3] at every place of a tile, float32 [side, side, filters, channels]."""
    matrix = np.array(_FILTER[m], np.float32)
    return np.einsum("ai,fcij,bj->abfc", matrix, weight.astype(np.float32), matrix, optimize=True)


def pack(weight: np.ndarray, way: Winograd) -> np.ndarray:
    """`weight` as `filters_kernel` takes it: [tap, block of filters · channel · filter]."""
    taps = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1)
    return np.stack([pack_weights(tap, 1, way.product) for tap in taps])


def filters_kernel(way: Winograd, target: Target) -> tirx.PrimFunc:
    """The function (taps [9, values], filters [place, values]) that transforms what `pack` gives."""
    values, places = way.filters, way.side**2
    lanes = min(target.lanes, 1 << (values.bit_length() - 1))
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("winograd_filters")
        T.func_attr({"tirx.noalias": True})
        taps, filters = arguments(taps=(9, values), filters=(places, values))
        grid = _grid(3, 3, lanes)
        with Share().serial(-(-values // lanes)) as v:
            at = tirx.min(v * lanes, values - lanes)
            for tap in range(9):
                T.buffer_store(grid[tap // 3][tap % 3], taps[ramp(tap * values + at, lanes)], [ramp(0, lanes)])
            lines = _transformed(grid, _FILTER[way.m], lanes)
            for place, value in enumerate(value for line in lines for value in line):
                T.buffer_store(filters, value[ramp(0, lanes)], [ramp(place * values + at, lanes)])
    return builder.get()


def places_kernel(way: Winograd, target: Target) -> tirx.PrimFunc:
    """The function (x, places [batch, place, channels, pitch]) that transforms all tiles of images."""
    conv, window = way.conv, way.window
    size = window.image[0] * window.image[1]
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("winograd_places")
        T.func_attr({"tirx.noalias": True})
        x, inputs = arguments(
            x=(conv.batch, conv.channels, *window.image),
            inputs=(conv.batch, way.side**2, conv.channels, way.pitch),
        )
        plane = scratch(window.plane + way.lanes)
        with T.serial(0, conv.batch) as n, Share().serial(conv.channels) as c:
            emit_padded(window, x, (n * conv.channels + c) * size, plane, 0, target.lanes)
            with T.serial(0, way.rows) as row:
                _emit_places(way, plane, 0, inputs, n * (way.side**2 * conv.channels), c, row, row)
    return builder.get()


def winograd_kernel(way: Winograd) -> tirx.PrimFunc:
    """The function (places or planes, transformed filters, bias [filters], residual if any, y).

    Places are those of `places_kernel`; where threads share rows it takes the planes of `padding.planes_kernel`.
    """
    conv, shape, m, side, lanes = way.conv, way.product, way.m, way.side, way.lanes
    window, (height, width) = way.window, conv.window.out
    down, across = way.tiles
    places, pitch = side * side, way.pitch
    out_shape = (conv.batch, conv.filters, height, width)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("winograd")
        T.func_attr({"tirx.noalias": True})
        planes, w, bias, residual, y = arguments(
            planes=(conv.batch, conv.channels, window.plane)
            if way.shares_rows
            else (conv.batch, places, conv.channels, pitch),
            w=(places, way.filters),
            bias=(conv.filters,),
            residual=out_shape if conv.epilogue.residual else None,
            y=out_shape,
        )
        inputs = scratch(places * conv.channels * pitch) if way.shares_rows else planes
        sums = scratch(places * conv.filters * pitch)
        rows = scratch(m * (across * m + lanes * m))
        share = Share()
        part = shape.whole if way.shares_rows else shape.part(share, rows_only=True)

        def from_places(filter_: Expr, row: Expr) -> None:
            """One output channel of the tiles of one row, to rows of pixels."""

            def one(tile: Expr) -> None:
                for f in range(places):
                    at = (f * conv.filters + filter_) * pitch + row * across + tile
                    T.buffer_store(grid[f // side][f % side], sums[ramp(at, lanes)], [ramp(0, lanes)])
                values = _transformed(grid, _OUTPUT[m], lanes)
                for i, line in enumerate(values):
                    for part in range(m):  # the pixels of a tile side by side again
                        order = [(part * lanes + p) % m * lanes + (part * lanes + p) // m for p in range(lanes)]
                        pixels = tirx.Shuffle([v[ramp(0, lanes)] for v in line], order) if lanes > 1 else line[part][0]
                        at = i * (across * m + lanes * m) + tile * m + part * lanes
                        T.buffer_store(rows, pixels, [ramp(at, lanes)])

            grid = _grid(side, side, lanes)
            _each_vector(way, one)

        def write(n: Expr, filter_: Expr, tile_row: Expr) -> None:
            with T.serial(0, tirx.min(m, height - tile_row * m)) as i:
                source = i * (across * m + lanes * m)
                start = (n * conv.filters + filter_) * (height * width) + (tile_row * m + i) * width
                wide = min(shape.tile.lanes, 1 << (width.bit_length() - 1))
                with T.serial(0, -(-width // wide)) as v:
                    column = tirx.min(v * wide, width - wide)
                    value = rows[ramp(source + column, wide)] + splat(bias[filter_], wide)
                    at = ramp(start + column, wide)
                    if residual is not None:
                        value = value + residual[at]
                    T.buffer_store(y, conv.epilogue.clip(value, wide), [at])

        with T.serial(0, conv.batch) as n:
            blocks = -(-down // way.rows)
            with share.serial(blocks) if way.shares_rows else T.serial(0, blocks) as number:
                first = tirx.min(number * way.rows, down - way.rows)
                if way.shares_rows:
                    with T.serial(0, conv.channels) as c, T.serial(0, way.rows) as row:
                        plane = (n * conv.channels + c) * window.plane
                        _emit_places(way, planes, plane, inputs, 0, c, row, first + row)
                before = 0 if way.shares_rows else n * (places * conv.channels)
                with T.serial(0, places) as f:
                    product.emit(
                        shape,
                        a=lambda number, r, k: w[k * shape.tile.rows + r],
                        b=lambda column, strip, k, inner, at: inputs[
                            ramp((before + f * conv.channels + inner) * pitch + column, shape.tile.lanes)
                        ],
                        start=lambda filter_, column: splat(tirx.const(0.0, "float32"), shape.tile.lanes),
                        finish=lambda filter_, column, value: value,
                        out=sums,
                        part=part,
                        out_at=lambda filter_, column, at: (f * conv.filters + filter_) * pitch + column,
                        steps=lambda number, chunk, k, count: (
                            (f * shape.blocks + number) * conv.channels,
                            conv.channels,
                        ),
                    )
                begin, end = (block * shape.tile.rows for block in part.blocks)
                with T.serial(begin, tirx.min(end, conv.filters)) as filter_, T.serial(0, way.rows) as row:
                    from_places(filter_, row)
                    write(n, filter_, first + row)
    return builder.get()


def _each_vector(way: Winograd, emit: Callable[[Expr], None]) -> None:
    """For every vector of tiles of a row, its first tile; the last one overlaps its neighbour."""
    across = way.tiles[1]
    with T.serial(0, -(-across // way.lanes)) as v:
        emit(tirx.min(v * way.lanes, max(across - way.lanes, 0)))


def _emit_places(
    way: Winograd, planes: Expr, plane_at: Expr, inputs: Expr, before: Expr, c: Expr, row: Expr, tile_row: Expr
) -> None:
    """The tiles of one row of channel `c`, whose plane is at `plane_at`, to every place of row `row` of `inputs`.

    `before` of its rows of channels are those of earlier images.
    """
    window, m, side, lanes = way.window, way.m, way.side, way.lanes
    grid = _grid(side, side, lanes)

    def one(tile: Expr) -> None:
        for i in range(side):
            for j in range(side):
                source = plane_at + tile_row * (m * window.row) + window.tap(i, j) + tile
                T.buffer_store(grid[i][j], planes[ramp(source, lanes)], [ramp(0, lanes)])
        values = _transformed(grid, _INPUT[m], lanes)
        for f, value in enumerate(value for line in values for value in line):
            at = (before + f * way.conv.channels + c) * way.pitch + row * way.tiles[1] + tile
            T.buffer_store(inputs, value[ramp(0, lanes)], [ramp(at, lanes)])

    _each_vector(way, one)


def _grid(height: int, width: int, lanes: int) -> list[list[Any]]:
    return [[T.alloc_buffer((lanes,), "float32") for _ in range(width)] for _ in range(height)]


def _transformed(grid: list[list[Any]], matrix: Sequence[Sequence[float]], lanes: int) -> list[list[Any]]:
    """`matrix · grid · matrixᵀ`, every value a buffer of one vector."""
    size = len(matrix)
    half, result = _grid(size, len(grid), lanes), _grid(size, size, lanes)
    for j in range(len(grid)):
        for i, weights in enumerate(matrix):
            T.buffer_store(half[i][j], _combined(weights, [line[j] for line in grid], lanes), [ramp(0, lanes)])
    for i in range(size):
        for j, weights in enumerate(matrix):
            T.buffer_store(result[i][j], _combined(weights, half[i], lanes), [ramp(0, lanes)])
    return result


def _combined(weights: Sequence[float], values: list[Any], lanes: int) -> Expr:
    total = None
    for weight, buffer in zip(weights, values, strict=True):
        if weight:
            value = buffer[ramp(0, lanes)]
            term = value if abs(weight) == 1 else value * splat(tirx.const(float(abs(weight)), "float32"), lanes)
            if total is None:
                total = term if weight > 0 else splat(tirx.const(0.0, "float32"), lanes) - term
            else:
                total = total + term if weight > 0 else total - term
    return total
