"""The ways to compute one layer, and which of them is taken: dense, sparse or Winograd, in one tile or another.

A `Pick` sees the ways that the cost model thinks best, the cheapest of each kind first. `Cheapest` believes the model;
`graphprune.compiler.tune` measures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple, Protocol

import numpy as np
from tvm import tirx

from graphprune.compiler.kernels import block, gemv, gpu, sparse, winograd
from graphprune.compiler.kernels.block import Shared
from graphprune.compiler.kernels.conv import Conv, conv_kernel, pack_weights
from graphprune.compiler.kernels.matmul import Matmul, matmul_kernel, pack_panels
from graphprune.compiler.kernels.padding import Window, planes_kernel
from graphprune.compiler.kernels.product import Product
from graphprune.compiler.kernels.winograd import Winograd
from graphprune.compiler.targets import Target


class Made(NamedTuple):
    """The code of a way.

    Attributes:
        function: the kernel.
        constants: what it takes between what flows in and the bias.
        before: a kernel (x, prepared), where what flows in must be prepared by one.
        once: a kernel (constant, prepared), where the first constant must be prepared by one when a model is loaded,
            since it is larger then.
    """

    function: tirx.PrimFunc
    constants: list[np.ndarray]
    before: tirx.PrimFunc | None = None
    once: tirx.PrimFunc | None = None


@dataclass(frozen=True, eq=False)
class Way:
    """One way to compute a layer.

    Attributes:
        kind: dense, sparse or Winograd.
        loops: the shape of its loops in words.
        cost: issue slots that the cost model expects.
        make: its code.
    """

    kind: Literal["dense", "sparse", "Winograd"]
    loops: str
    cost: float
    make: Callable[[], Made]

    def __str__(self) -> str:
        return self.loops if self.kind == "Winograd" else f"{self.kind} {self.loops}"


@dataclass(frozen=True, eq=False)
class Ways:
    """All that come into question for one layer.

    Attributes:
        layer: what is computed, with the pattern of zeros: the same for layers that take the same time.
        found: at least one.
    """

    layer: str
    found: Sequence[Way]


class Pick(Protocol):
    """What takes one of the ways and says why.

    Attributes:
        few: how many of each kind it wants to see.
    """

    few: int

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        """The way taken, and the reason in words."""


class Cheapest:
    """Takes what the cost model expects to be fastest."""

    few = 1

    def __repr__(self) -> str:
        return "Cheapest"

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        """The cheapest way."""
        best = min(ways.found, key=lambda way: way.cost)
        others = [f"{way.kind} {way.cost / best.cost:.2f}" for way in ways.found if way is not best]
        return best, f"expected; {', '.join(others)} of its cost" if others else ""


class Dense:
    """Takes what another pick does, but never skips zeros: what a sparse kernel is compared with."""

    def __init__(self, pick: Pick) -> None:
        self.pick, self.few = pick, pick.few

    def __repr__(self) -> str:
        return f"Dense({self.pick})"

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        """The way taken among those that are not sparse."""
        return self.pick(Ways(ways.layer, [way for way in ways.found if way.kind != "sparse"]))


def ways_of_conv(conv: Conv, weight: np.ndarray, target: Target, few: int) -> Ways:
    """Ways to convolve with `weight`, float32 [filters, channels/groups, kh, kw]; `few` of each kind."""
    if target.device:
        shapes = block.plans(
            conv.batch * conv.groups,
            conv.filters // conv.groups,
            conv.pixels,
            lambda tile: gpu.order(conv, tile.depth).whole,
            not gpu.plain(conv),
        )
        return _on_device(
            str(conv), shapes, few, lambda s: Made(gpu.conv_kernel(conv, s), [gpu.pack_weights(weight, conv.groups, s)])
        )

    rows = weight.reshape(conv.groups, conv.filters // conv.groups, -1)

    def padded(window: Window) -> tirx.PrimFunc | None:
        return planes_kernel(window, conv.batch, conv.channels, target) if window.copied else None

    def dense(shape: Product) -> Made:
        return Made(conv_kernel(conv, shape), [pack_weights(weight, conv.groups, shape)], padded(conv.window))

    def thin(shape: Product) -> Made:
        packed = sparse.pack(rows, shape)
        return Made(conv_kernel(conv, shape, packed.steps), packed.constants, padded(conv.window))

    def tiled(way: Winograd) -> Made:
        before = padded(way.window) if way.shares_rows else winograd.places_kernel(way, target)
        once = winograd.filters_kernel(way, target)
        return Made(winograd.winograd_kernel(way), [winograd.pack(weight, way)], before, once)

    def found() -> Iterator[Way]:
        for shape in conv.products(target)[:few]:
            yield Way("dense", str(shape), shape.cost, partial(dense, shape))
        if not weight.all():
            for shape in _mixed(conv.sparse(weight, target), few):
                loops = f"{shape}, {sparse.share(rows, shape):.0%} of the weights"
                yield Way("sparse", loops, shape.cost, partial(thin, shape))
        for way in islice(winograd.plans(conv, weight, target), few):
            yield Way("Winograd", str(way), way.cost, partial(tiled, way))

    return Ways(f"{conv}, {_pattern(weight)}", list(found()))


def ways_of_product(op: Matmul, b: np.ndarray | None, target: Target, few: int) -> Ways:
    """Ways to multiply with `b`, float32 [depth, columns], or with a matrix that flows in; `few` of each kind."""
    if target.device:
        shapes = block.plans(op.batch, op.rows, op.columns, lambda tile: op.depth)
        constants = [] if b is None else [np.ascontiguousarray(b, np.float32)]
        return _on_device(str(op), shapes, few, lambda shape: Made(gpu.matmul_kernel(op, shape), constants))

    def dense(shape: Product) -> Made:
        return Made(matmul_kernel(op, shape), [] if b is None else [pack_panels(b, shape)])

    def thin(matrix: np.ndarray, shape: Product) -> Made:
        packed = sparse.pack(matrix.T[None], shape)
        return Made(sparse.matmul_kernel(op, shape, packed.steps), packed.constants)

    def row(matrix: np.ndarray, height: int) -> Made:
        packed = gemv.pack_row(matrix, height)
        return Made(gemv.row_kernel(op, height, packed.steps), packed.constants)

    def found() -> Iterator[Way]:
        for shape in op.products(target)[:few]:
            yield Way("dense", str(shape), shape.cost, partial(dense, shape))
        if b is None or b.all():
            return
        if heights := gemv.heights(op, target):
            for cost, height in sorted((gemv.cost(b, height), height) for height in heights)[:few]:
                yield Way("sparse", f"one row, {height} outputs at a time", cost, partial(row, b, height))
        else:
            for shape in _mixed(sparse.plans_matmul(op, b, target), few):
                loops = f"{shape}, {sparse.share(b.T[None], shape):.0%} of the weights"
                yield Way("sparse", loops, shape.cost, partial(thin, b, shape))

    return Ways(f"{op}, {'' if b is None else _pattern(b)}", list(found()))


def _on_device(layer: str, shapes: Sequence[Shared], few: int, make: Callable[[Shared], Made]) -> Ways:
    return Ways(layer, [Way("dense", str(shape), shape.cost, partial(make, shape)) for shape in shapes[:few]])


def _mixed(plans: Sequence[Product], few: int) -> list[Product]:
    """The cheapest, then the cheapest of other heights of blocks, as many as there are few."""
    seen: dict[int, Product] = {}
    for plan in plans:
        seen.setdefault(plan.tile.rows, plan)
    rest = [plan for plan in plans if plan not in seen.values()]
    return [*seen.values(), *rest][:few]


def _pattern(weight: np.ndarray) -> str:
    """A digest of where the zeros are."""
    kept = weight != 0
    return "no zeros" if kept.all() else hashlib.blake2b(np.packbits(kept).tobytes(), digest_size=16).hexdigest()
