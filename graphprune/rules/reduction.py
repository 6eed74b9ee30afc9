"""Pooling, resizing and reductions: what they sum over or resample stays, the rest passes through."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx_graphsurgeon as gs

from graphprune.rules.base import (
    Call,
    Kept,
    Pin,
    Rule,
    Ties,
    first,
    never,
    normal_axis,
    reduction,
    scaled,
    set_ints,
    tie,
    tie_all,
)


def _pool_ties(call: Call) -> Ties:
    """Batch and channel pass through; the spatial axes are windows and stay. Index outputs follow the values."""
    for y in call.outputs:
        if y is not None:
            yield tie(call.x, 0, y, 0)
            yield tie(call.x, 1, y, 1)


def _max_pool_ties(call: Call) -> Ties:
    if any(call.outputs[1:]):
        # Indices count over the whole tensor, so they change when any channel goes.
        for operand in (call.x, call.y):
            yield Pin(operand.dim(1), "numbered by the pool's index output")
        return
    yield from _pool_ties(call)


def _resize_ties(call: Call) -> Ties:
    """Axes that keep their size pass through; all stay where the target is computed at run time, or is a crop."""
    computed = any(o is not None and o.constant is None for o in call.inputs[1:])
    if not computed and call.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        yield from tie_all(call.x, call.y)


def _resize_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """Target sizes that are spelled out follow the axes that were cut."""
    if (sizes := call.input(3)) is None or not sizes.shape[0]:
        return
    axes = call.attrs.get("axes", range(call.x.rank))
    new = [
        len(kept(call.y, axis)) if call.x.shape[axis] == call.y.shape[axis] else size
        for axis, size in zip((normal_axis(a, call.x.rank) for a in axes), sizes.values, strict=True)
    ]
    set_ints(node, "sizes", 3, new)


def _reduced_axes(call: Call) -> list[int] | None:
    """The axes summed over; ``None`` where they are computed at run time."""
    axes = call.ints("axes", 1)
    if axes is None:
        if call.input(1) is not None:
            return None
        axes = [] if call.attrs.get("noop_with_empty_axes", 0) else list(range(call.x.rank))
    elif not axes and not call.attrs.get("noop_with_empty_axes", 0):
        axes = list(range(call.x.rank))
    return [normal_axis(a, call.x.rank) for a in axes]


def _sum_ties(call: Call) -> Ties:
    """Sums, and means once scaled, do not miss zeros."""
    yield from _reduce_over(call, _reduced_axes(call), summed=True)


def _reduce_ties(call: Call) -> Ties:
    yield from _reduce_over(call, _reduced_axes(call))


def _arg_ties(call: Call) -> Ties:
    yield from _reduce_over(call, [normal_axis(call.attrs.get("axis", 0), call.x.rank)])


def _reduce_over(call: Call, axes: list[int] | None, summed: bool = False) -> Ties:
    if axes is None:
        return
    out, keepdims = 0, bool(call.attrs.get("keepdims", 1))
    for axis in range(call.x.rank):
        if axis in axes:
            yield reduction(call.x, axis) if summed else Pin(call.x.dim(axis), "reduced over")
            out += keepdims
        else:
            yield tie(call.x, axis, call.y, out)
            out += 1


def _mean_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """The mean of fewer numbers is larger: scale it back to that of all, the others being zero."""
    axes = _reduced_axes(call) or []
    yield from scaled(node, call, prod(len(kept(call.x, a)) for a in axes) / prod(call.x.shape[a] for a in axes))


_SUMS = ["L1", "L2", "LogSum", "Sum", "SumSquare"]
_REDUCE = ["LogSumExp", "Max", "Min", "Prod"]

RULES = {
    **dict.fromkeys(
        ["AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"], Rule(_pool_ties, silence=first)
    ),
    "MaxPool": Rule(_max_pool_ties, silence=first),
    "Resize": Rule(_resize_ties, _resize_repair, silence=first),
    "Upsample": Rule(_resize_ties, silence=first),
    **{f"Reduce{kind}": Rule(_sum_ties, silence=never if kind == "LogSum" else first) for kind in _SUMS},
    **{f"Reduce{kind}": Rule(_reduce_ties, silence=never if kind == "LogSumExp" else first) for kind in _REDUCE},
    "ReduceMean": Rule(_sum_ties, _mean_repair, silence=first),
    "ArgMax": Rule(_arg_ties),
    "ArgMin": Rule(_arg_ties),
}
