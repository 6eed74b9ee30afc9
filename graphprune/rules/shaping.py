"""Operators that follow a list of sizes: the list may be put together at run time, and its constants follow a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import (
    Call,
    Choice,
    Kept,
    Operand,
    Pin,
    Rule,
    Ties,
    cover,
    first,
    set_sizes,
    tie,
)

_COMPUTED = "reshaped to a shape computed at run time"


def _reshape_ties(call: Call) -> Ties:
    """Runs of axes that merge or split: the merged axis goes with one of the axes it is made of.

    Where several become several, the outermost go together, or the innermost: torch normalises groups of channels so.
    """
    for of_x, of_y in _runs(call.x.shape, call.y.shape):
        if len(of_x) == 1:
            yield from _merged(call.x, of_x[0], call.y, of_y)
        elif len(of_y) == 1:
            yield from _merged(call.y, of_y[0], call.x, of_x)
        else:
            yield from _regrouped(call.x, of_x, call.y, of_y)
    if call.op == "Reshape":
        for axis in range(call.y.rank):
            if _size(call, axis) is None:
                yield Pin(call.y.dim(axis), _COMPUTED)


def _runs(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Split two shapes of equal product into the smallest runs of axes of equal product, axes of size 1 left out."""
    a = [k for k, n in enumerate(shape_a) if n != 1]
    b = [k for k, n in enumerate(shape_b) if n != 1]
    while a:
        i = j = 1
        while (left := prod(shape_a[k] for k in a[:i])) != (right := prod(shape_b[k] for k in b[:j])):
            if left < right:
                i += 1
            else:
                j += 1
            if i > len(a) or j > len(b):
                return
        yield a[:i], b[:j]
        a, b = a[i:], b[j:]


def _size(call: Call, axis: int) -> int | None:
    """What the list of sizes says of an axis of the output; ``None`` where it is computed at run time."""
    return call.sizes[axis] if axis < len(call.sizes) else None


def _merged(whole: Operand, axis: int, split: Operand, parts: list[int]) -> Ties:
    """An axis against the run of axes it is made of, outermost first: channels before pixels, heads before width."""
    at = np.unravel_index(np.arange(whole.shape[axis]), [split.shape[part] for part in parts])
    options = [tie(whole, axis, split, part, at_b=index) for part, index in zip(parts, at, strict=True)]
    if len(options) == 1:
        yield options[0]
    elif options:
        yield Choice(tuple((option,) for option in options))


def _regrouped(x: Operand, of_x: list[int], y: Operand, of_y: list[int]) -> Ties:
    """The outermost axes of two runs, and the innermost, where the size of one is a multiple of the other's."""
    options = []
    for a, b, outermost in ((of_x[0], of_y[0], True), (of_x[-1], of_y[-1], False)):
        (small, few), (large, many) = sorted([((x, a), x.shape[a]), ((y, b), y.shape[b])], key=lambda one: one[1])
        if many % few == 0:
            own = np.arange(many)
            options.append((tie(*large, *small, at_b=own // (many // few) if outermost else own % few),))
    if options:
        yield Choice(tuple(options))


def _reshape_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """Spell out the new size of every axis that was cut; 0 and -1 elsewhere keep their meaning."""
    new: dict[int, int] = {}
    for axis in range(call.y.rank):
        size = len(kept(call.y, axis))
        copied = _size(call, axis) == 0  # or empty, by allowzero, and stays so
        if size != call.y.shape[axis] or (copied and size != len(kept(call.x, axis))):
            new[axis] = size
    return set_sizes(node, call, 1, new)


def _expand_ties(call: Call) -> Ties:
    """Axes pass through; what is made of an axis of size 1 are copies, any number of which may go."""
    x, y = call.x, call.y
    for axis, own, size in _expanded(call):
        if size is None:
            continue  # it has to come out as long as what is computed at run time
        if own is not None and x.shape[own] == y.shape[axis]:
            yield tie(x, own, y, axis)
        else:
            yield cover(y, axis, np.arange(y.shape[axis]))


def _expanded(call: Call) -> Iterable[tuple[int, int | None, int | None]]:
    """For every axis of y the one of x it is made of, if any, and the size asked for; 1 leaves it as it is."""
    for axis in range(call.y.rank):
        own, asked = axis - call.y.rank + call.x.rank, axis - call.y.rank + len(call.sizes)
        yield axis, own if own >= 0 else None, call.sizes[asked] if asked >= 0 else 1


def _expand_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """Ask for 1 where x decides, and for as many copies as are left elsewhere."""
    new: dict[int, int] = {}
    for axis, own, size in _expanded(call):
        left = len(kept(call.y, axis))
        if left != call.y.shape[axis] and size != 1:
            through = own is not None and call.x.shape[own] == call.y.shape[axis]
            new[axis - call.y.rank + len(call.sizes)] = 1 if through else left
    return set_sizes(node, call, 1, new)


def _tile_ties(call: Call) -> Ties:
    """All copies of a position go together; of copies of a single one, any number may go."""
    x, y = call.x, call.y
    if len(call.sizes) != x.rank:
        return
    for axis, times in enumerate(call.sizes):
        if times is None:
            continue
        if x.shape[axis] == 1:
            yield cover(y, axis, np.arange(y.shape[axis]))
        else:
            yield tie(y, axis, x, axis, at_b=np.arange(y.shape[axis]) % x.shape[axis])


def _tile_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    single = (axis for axis in range(call.x.rank) if call.x.shape[axis] == 1)
    left = {axis: len(kept(call.y, axis)) for axis in single}
    return set_sizes(node, call, 1, {axis: n for axis, n in left.items() if n != call.y.shape[axis]})


def _filled_ties(call: Call) -> Ties:
    """Every position is the same, and any number of them may go."""
    for axis in range(call.y.rank):
        if _size(call, axis) is not None:
            yield cover(call.y, axis, np.arange(call.y.shape[axis]))


def _filled_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    return set_sizes(node, call, 0, {axis: len(kept(call.y, axis)) for axis in range(call.y.rank)})


def _filled_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    value = call.attrs.get("value")
    filling = getattr(value, "values", value)
    return np.full_like(zero[0], filling is None or not np.any(filling))


def _shape_ties(call: Call) -> Ties:
    """Sizes that nobody asks for may change."""
    for axis in range(call.x.rank):
        if axis not in call.asked:
            yield cover(call.x, axis, np.arange(call.x.shape[axis]))


RULES = {
    "ConstantOfShape": Rule(_filled_ties, _filled_repair, sizes=0, silence=_filled_silence),
    "Expand": Rule(_expand_ties, _expand_repair, sizes=1, silence=first, why="expanded to a size computed at run time"),
    "Flatten": Rule(_reshape_ties, silence=first),
    "Reshape": Rule(_reshape_ties, _reshape_repair, sizes=1, silence=first),
    "Shape": Rule(_shape_ties, why="its size is asked for at run time"),
    "Tile": Rule(_tile_ties, _tile_repair, sizes=1, silence=first),
}
