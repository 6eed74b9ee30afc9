"""The product that the threads of a block share, on graphics processors.

`out[m, n] = finish(Σ_k a[m, k] · b[k, n])`. A block computes a tile of the output: step by step it brings a slice of a
and one of b into shared memory, and every thread multiplies what its own few outputs need of them, in registers. While
one slice is multiplied the next is on its way, in registers, and goes to the other half of the shared memory (the
scheme of NVIDIA's CUTLASS without tensor cores, whose TF32 is too coarse for the tolerance of artefacts).

One image gives few tiles and a graphics processor wants hundreds, so blocks also split k; each writes partial sums,
and a second kernel adds them up in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx

from graphprune.compiler.kernels.vectors import Expr, ramp


@dataclass(frozen=True)
class Block:
    """A tile of `rows` × `columns` outputs, `depth` of k at a time; a thread has `high` × `wide` of the outputs."""

    rows: int
    columns: int
    depth: int
    high: int
    wide: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.high * (self.columns // self.wide)

    def __str__(self) -> str:
        return f"tile {self.rows} × {self.columns}"


@dataclass(frozen=True)
class Shared:
    """The extents of `batch` products, their tile, and into how many parts k is split."""

    batch: int
    rows: int
    columns: int
    depth: int
    block: Block
    splits: int = 1
    cost: float = 0.0

    @property
    def across(self) -> int:
        """Tiles beside one another."""
        return -(-self.columns // self.block.columns)

    @property
    def down(self) -> int:
        """Tiles above one another."""
        return -(-self.rows // self.block.rows)

    @property
    def slices(self) -> int:
        """Slices of k of all parts together."""
        return -(-self.depth // self.block.depth)

    @property
    def part(self) -> int:
        """Slices of one part; the last may have fewer."""
        return -(-self.slices // self.splits)

    def __str__(self) -> str:
        return str(self.block) + (f", {self.splits} parts" if self.splits > 1 else "")


@dataclass(frozen=True)
class Operand:
    """How a slice of a or b is read.

    Attributes:
        load: given what `slice` gave, k within the slice, m or n within the tile, and a number of lanes: that many
            consecutive values.
        along_k: whether consecutive values follow k; else they follow m or n.
        lanes: how many values one load may bring, 4 or 1.
        slice: called before the loads of a slice with its number, for what all of them share; its result goes to load.
    """

    load: Callable[[Any, Expr, Expr, int], Expr]
    along_k: bool = False
    lanes: int = 1
    slice: Callable[[Expr], Any] = lambda number: number


class _Slice:
    """One operand's place in shared memory and on the way there."""

    def __init__(self, operand: Operand, width: int, block: Block, thread: Expr) -> None:
        self.operand, self.width, self.thread, self.block = operand, width, thread, block
        self.pitch = width + 4 if operand.along_k else width  # turned values would meet in one bank
        self.each = -(-width * block.depth // block.threads)
        self.lanes = math.gcd(operand.lanes, self.each)
        self.size = self.pitch * block.depth
        self.memory = T.sblock_alloc_buffer((2 * self.size,), "float32", scope="shared")
        self.coming = T.sblock_alloc_buffer((self.each,), "float32", scope="local")

    def _loads(self) -> Iterator[tuple[int, Expr, Expr, Any]]:
        """This thread's loads: which of its registers, k, m or n, and whether there is such a load, None for always."""
        fast, whole = self.block.depth if self.operand.along_k else self.width, self.width * self.block.depth
        for first in range(0, self.each, self.lanes):
            number = first // self.lanes
            at = (self.thread + number * self.block.threads) * self.lanes
            k, other = (at % fast, at // fast) if self.operand.along_k else (at // fast, at % fast)
            yield first, k, other, at < whole if (number + 1) * self.block.threads * self.lanes > whole else None

    def fetch(self, number: Expr) -> None:
        """Begin to load a slice."""
        shared = self.operand.slice(number)
        for first, k, other, there in self._loads():
            value = self.operand.load(shared, k, other, self.lanes)
            if there is not None:
                value = tirx.if_then_else(there, value, tirx.const(0, value.ty.dtype))
            T.buffer_store(self.coming, value, [ramp(first, self.lanes)])

    def put(self, half: Expr) -> None:
        """Write the loaded slice into one half of the memory."""
        for first, k, other, there in self._loads():
            if there is None:
                self._put(half, first, k, other)
            else:
                with T.If(there), T.Then():
                    self._put(half, first, k, other)

    def _put(self, half: Expr, first: int, k: Expr, other: Expr) -> None:
        at = half * self.size + k * self.pitch + other
        if self.operand.along_k:
            for lane in range(self.lanes):
                T.buffer_store(self.memory, self.coming[first + lane], [at + lane * self.pitch])
        else:
            T.buffer_store(self.memory, self.coming[ramp(first, self.lanes)], [ramp(at, self.lanes)])


def emit(
    shape: Shared,
    a: Callable[[Expr, Expr], Operand],
    b: Callable[[Expr, Expr], Operand],
    finish: Callable[[Expr, Expr, Expr, Expr], Expr],
    out: Expr,
) -> None:
    """Write the kernel, or both of them, into the function being built.

    Args:
        shape: extents and tile.
        a: the operand, given the product's number and the first row of the tile.
        b: the operand, given the product's number and the first column of the tile.
        finish: what is written for a sum, given the product's number, row and column.
        out: where to, [batch, rows, columns].
    """
    block = shape.block
    partial = (
        T.sblock_alloc_buffer((shape.splits * shape.batch * shape.rows * shape.columns,), "float32")
        if (shape.splits > 1)
        else None
    )
    with (
        T.thread_binding(0, shape.across, thread="blockIdx.x") as right,
        T.thread_binding(0, shape.down, thread="blockIdx.y") as down,
        T.thread_binding(0, shape.batch * shape.splits, thread="blockIdx.z") as layer,
        T.thread_binding(0, block.threads, thread="threadIdx.x") as thread,
    ):
        number, split = (layer, 0) if shape.splits == 1 else (layer // shape.splits, layer % shape.splits)
        rows = _Slice(a(number, down * block.rows), block.rows, block, thread)
        columns = _Slice(b(number, right * block.columns), block.columns, block, thread)
        sums = T.sblock_alloc_buffer((block.high * block.wide,), "float32", scope="local")
        for i in range(block.high * block.wide):
            T.buffer_store(sums, tirx.const(0.0, "float32"), [i])
        begin = split * shape.part
        count = shape.slices if shape.splits == 1 else tirx.min(shape.part, shape.slices - begin)
        row, column = thread // (block.columns // block.wide), thread % (block.columns // block.wide)
        with T.serial(0, count + 1) as step:  # brings one slice while it multiplies the one before
            with T.If(step < count), T.Then():
                rows.fetch(begin + step)
                columns.fetch(begin + step)
            with T.If(step > 0), T.Then():
                _multiply(block, rows, columns, sums, (step + 1) % 2, row * block.high, column * block.wide)
            with T.If(step < count), T.Then():
                rows.put(step % 2)
                columns.put(step % 2)
            T.evaluate(T.tvm_storage_sync("shared"))
        for i, j in product(range(block.high), range(block.wide)):
            m, n = down * block.rows + row * block.high + i, right * block.columns + column * block.wide + j
            with T.If(tirx.all(m < shape.rows, n < shape.columns)), T.Then():
                value = sums[i * block.wide + j]
                if partial is None:
                    T.buffer_store(out, finish(number, m, n, value), [(number * shape.rows + m) * shape.columns + n])
                else:
                    T.buffer_store(partial, value, [(layer * shape.rows + m) * shape.columns + n])
    if partial is not None:
        _add_up(shape, partial, finish, out)


def _multiply(block: Block, rows: _Slice, columns: _Slice, sums: Expr, half: Expr, row: Expr, column: Expr) -> None:
    """Add the products of one slice to a thread's sums."""
    left = T.sblock_alloc_buffer((block.high,), "float32", scope="local")
    right = T.sblock_alloc_buffer((block.wide,), "float32", scope="local")
    with T.unroll(0, block.depth) as k:
        for values, operand, at, count in ((left, rows, row, block.high), (right, columns, column, block.wide)):
            lanes = next(lanes for lanes in (4, 2, 1) if count % lanes == 0)
            for first in range(0, count, lanes):
                place = half * operand.size + k * operand.pitch + at + first
                T.buffer_store(values, operand.memory[ramp(place, lanes)], [ramp(first, lanes)])
        for i, j in product(range(block.high), range(block.wide)):
            at = i * block.wide + j
            T.buffer_store(sums, sums[at] + left[i] * right[j], [at])


def _add_up(shape: Shared, partial: Expr, finish: Callable[..., Expr], out: Expr) -> None:
    """The second kernel: every output the sum of its parts."""
    size = shape.rows * shape.columns
    threads = 128
    with (
        T.thread_binding(0, -(-shape.batch * size // threads), thread="blockIdx.x") as group,
        T.thread_binding(0, threads, thread="threadIdx.x") as thread,
    ):
        at = group * threads + thread
        with T.If(at < shape.batch * size), T.Then():
            number, place = at // size, at % size
            value = partial[number * shape.splits * size + place]
            for split in range(1, shape.splits):
                value = value + partial[(number * shape.splits + split) * size + place]
            T.buffer_store(out, finish(number, place // shape.columns, place % shape.columns, value), [at])


_BLOCKS = [
    Block(*sizes)
    for sizes in (
        (128, 128, 8, 8, 8),
        (128, 64, 8, 8, 4),
        (64, 128, 8, 8, 4),
        (64, 64, 16, 8, 4),
        (64, 64, 16, 4, 4),
        (64, 32, 16, 4, 4),
        (32, 64, 16, 4, 4),
        (32, 32, 16, 4, 2),
        (32, 32, 32, 4, 4),
        (16, 64, 16, 4, 2),
        (64, 16, 16, 4, 2),
        (16, 32, 16, 2, 2),
        (32, 16, 16, 2, 2),
        (16, 16, 32, 2, 2),
    )
]
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def plans(batch: int, rows: int, columns: int, depth: Callable[[Block], int], gathered: bool = False) -> list[Shared]:
    """Products with every tile and split, the cheapest first.

    Args:
        batch: how many products.
        rows: of each.
        columns: of each.
        depth: of k, as the slices of a tile fill it up.
        gathered: whether b is read value by value.
    """
    found = []
    for block in _BLOCKS:
        for splits in _SPLITS:
            shape = Shared(batch, rows, columns, depth(block), block, splits)
            if splits == 1 or (shape.part >= 4 and (splits - 1) * shape.part < shape.slices):
                found.append(replace(shape, cost=_cost(shape, gathered)))
    return sorted(found, key=lambda shape: shape.cost)


# Of an H100: `python -m benchmarks.gpu_tiles` shows what is lost against the best tile. The last two are between what
# fits with weights in memory, as there, and in the cache, as they are in a small network.
_PROCESSORS = 132
_CLOCK = 1.7e3  # cycles of a microsecond
_START, _BLOCK, _ADD_UP = 1.2, 1.0, 0.8  # microseconds: of a kernel, a block, the second kernel
_MULTIPLY = 2.25 / 128  # cycles of a product in one multiprocessor, with what it takes from shared memory
_LOAD = 2 / 32  # cycles of a load
_GATHER = 3.1  # loads that one gathered value is worth
_ROOM = 65536, 2048, 200 * 1024, 32  # registers, threads, bytes of shared memory and blocks of a multiprocessor
_SLICE = 0.12  # microseconds until a slice is there
_WARPS = 8  # that a multiprocessor needs to be busy


def _cost(shape: Shared, gathered: bool) -> float:
    """Microseconds that the cost model expects; `gathered` where b is read value by value."""
    block = shape.block
    loads = block.rows + block.columns * (_GATHER if gathered else 1)
    step = block.depth * (block.rows * block.columns * _MULTIPLY + loads * _LOAD) / _CLOCK
    registers, threads, shared, most = _ROOM
    own = block.high * block.wide + block.high + block.wide + (block.rows + block.columns) * block.depth / block.threads
    fit = min(
        threads // block.threads,
        registers // int((own + 28) * block.threads),
        shared // (8 * block.depth * (block.rows + block.columns)),
        most,
    )
    waiting = -(-shape.across * shape.down * shape.batch * shape.splits // _PROCESSORS)

    def turn(together: int) -> float:
        busy = max(1.0, _WARPS / (together * block.threads / 32))
        return _BLOCK + shape.part * (_SLICE + together * step * busy)

    cost = _START + waiting // fit * turn(fit) + (turn(waiting % fit) if waiting % fit else 0)
    sums = shape.splits * shape.batch * shape.rows * shape.columns
    return cost + (_ADD_UP + sums * 8 / 4e6 if shape.splits > 1 else 0)
