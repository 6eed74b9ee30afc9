"""Operators that move data without computing: the tie is where each position goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import (
    Call,
    Counting,
    Kept,
    Pin,
    Rule,
    Ties,
    cover,
    first,
    never,
    normal_axis,
    set_ints,
    some,
    tie,
)


def _concat_ties(call: Call) -> Ties:
    y = call.y
    at = normal_axis(call.attrs["axis"], y.rank)
    start = 0
    for x in call.inputs:
        if x is None:
            continue
        for axis in range(y.rank):
            if axis == at:
                own = np.arange(x.shape[axis])
                yield tie(x, axis, y, axis, own, start + own)
                start += x.shape[axis]
            else:
                yield tie(x, axis, y, axis)


def _split_axis(call: Call) -> int:
    return normal_axis(call.attrs.get("axis", 0), call.x.rank)


def _split_bounds(call: Call) -> np.ndarray | None:
    """Where the parts begin and end, int64 [parts + 1]; ``None`` where computed at run time."""
    sizes, whole, parts = call.ints("split", 1), call.x.shape[_split_axis(call)], len(call.outputs)
    if sizes is None:
        if call.input(1) is not None:
            return None
        return np.minimum(np.arange(parts + 1) * -(-whole // parts), whole)
    return np.cumsum([0, *sizes])


def _split_ties(call: Call) -> Ties:
    x, at, bounds = call.x, _split_axis(call), _split_bounds(call)
    for k, y in enumerate(call.outputs):
        if y is None:
            continue
        for axis in range(x.rank):
            if axis != at:
                yield tie(x, axis, y, axis)
            elif bounds is not None:
                yield tie(y, axis, x, axis, at_b=np.arange(*bounds[k : k + 2]))


def _split_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    bounds, left = _split_bounds(call), kept(call.x, _split_axis(call))
    if bounds is None or len(left) == call.x.shape[_split_axis(call)]:
        return
    node.attrs.pop("num_outputs", None)
    if call.opset < 13:
        node.attrs.setdefault("split", [])
    set_ints(node, "split", 1, np.diff(np.searchsorted(left, bounds)))


def _sliced_axes(call: Call) -> list[int] | None:
    """The axes a Slice has bounds for, counted from the front; ``None`` where they are computed at run time."""
    axes = call.ints("axes", 3)
    if axes is None:
        if call.input(3) is not None:
            return None
        starts = call.input(1)
        axes = list(range(len(call.attrs["starts"]) if starts is None else starts.shape[0]))
    return [normal_axis(axis, call.x.rank) for axis in axes]


def _slices(call: Call) -> dict[int, tuple[int, int]] | None:
    """Axis → (start, step) of a Slice; ``None`` where they are computed at run time."""
    axes, starts, ends, steps = _sliced_axes(call), call.ints("starts", 1), call.ints("ends", 2), call.ints("steps", 4)
    if axes is None or starts is None or ends is None or (steps is None and call.input(4) is not None):
        return None
    found = {}
    for axis, start, step in zip(axes, starts, steps or [1] * len(starts), strict=True):
        size = call.x.shape[axis]
        start = start + size if start < 0 else start
        found[axis] = (min(max(start, 0), size if step > 0 else size - 1), step)
    return found


def _slice_ties(call: Call) -> Ties:
    axes, slices = _sliced_axes(call), _slices(call)
    if axes is None:
        return
    for axis in range(call.x.rank):
        if axis not in axes:
            yield tie(call.x, axis, call.y, axis)
        elif slices is None:
            yield Pin(call.x.dim(axis), "sliced by bounds computed at run time")
        elif (step := slices[axis][1]) == 1 or len(slices) == 1:
            yield tie(call.y, axis, call.x, axis, at_b=_picked(call, axis, *slices[axis]))
        else:
            yield Pin(call.x.dim(axis), f"sliced with step {step}, and by other axes too")


def _picked(call: Call, axis: int, start: int, step: int) -> np.ndarray:
    """The positions that a Slice takes from an axis."""
    return start + step * np.arange(call.y.shape[axis])


def _slice_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """Move the bounds of the axes that were cut; the others may be symbolic and keep theirs."""
    slices, starts, ends = _slices(call), call.ints("starts", 1), call.ints("ends", 2)
    if slices is None or starts is None or ends is None:
        return  # computed bounds are of axes that stay
    for k, (axis, (start, step)) in enumerate(slices.items()):
        left, made = kept(call.x, axis), kept(call.y, axis)
        if len(left) == call.x.shape[axis]:
            continue
        if step != 1:  # what is left of every second position is no longer every second
            _gather(node, axis, np.searchsorted(left, _picked(call, axis, start, step)[made]))
            return
        starts[k] = int(np.searchsorted(left, start))
        ends[k] = starts[k] + len(made)
    set_ints(node, "starts", 1, starts)
    set_ints(node, "ends", 2, ends)


def _gather(node: gs.Node, axis: int, indices: np.ndarray) -> None:
    """Make the node one that picks ``indices`` of an axis."""
    node.op = "Gather"
    node.attrs["axis"] = axis
    indices = np.asarray(indices, np.int64)
    node.inputs = [node.inputs[0], gs.Constant(f"{node.outputs[0].name}:indices", indices)]


def _transpose_ties(call: Call) -> Ties:
    x, y = call.x, call.y
    for to, axis in enumerate(call.attrs.get("perm") or range(x.rank)[::-1]):
        yield tie(x, axis, y, to)


def _renumbered_ties(call: Call) -> Ties:
    """Squeeze and Unsqueeze: the axes of size above 1 stay in order."""
    wide_x = [k for k, n in enumerate(call.x.shape) if n != 1]
    wide_y = [k for k, n in enumerate(call.y.shape) if n != 1]
    for a, b in zip(wide_x, wide_y, strict=True):
        yield tie(call.x, a, call.y, b)


def _squeeze_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """Name the axes to drop where the node drops all of size 1: an axis cut down to 1 is none of them."""
    if "axes" in call.attrs or call.input(1) is not None:
        return
    if any(len(kept(call.x, axis)) == 1 for axis, size in enumerate(call.x.shape) if size > 1):
        if call.opset < 13:
            node.attrs["axes"] = []
        set_ints(node, "axes", 1, [axis for axis, size in enumerate(call.x.shape) if size == 1])


def _pads(call: Call) -> list[tuple[int, int]] | None:
    """(before, after) for each axis; ``None`` where computed at run time."""
    pads = call.ints("pads", 1)
    if pads is None:
        return None
    axes = call.ints("axes", 3)
    if axes is None:
        if call.input(3) is not None:
            return None
        axes = list(range(call.x.rank))
    found = [(0, 0)] * call.x.rank
    for k, axis in enumerate(axes):
        found[normal_axis(axis, call.x.rank)] = (pads[k], pads[k + len(axes)])
    return found


def _pad_ties(call: Call) -> Ties:
    """Positions pass through shifted; constant padding belongs to nobody and may go, a reflection is pinned."""
    if (pads := _pads(call)) is None:
        return
    constant = call.attrs.get("mode", "constant") == "constant"
    for axis, (before, after) in enumerate(pads):
        if (before, after) != (0, 0) and not constant:
            yield Pin(call.x.dim(axis), "padded by other than constants")
            yield Pin(call.y.dim(axis), "padded by other than constants")
            continue
        own = np.arange(call.y.shape[axis])
        inner = (own >= before) & (own < len(own) - after)
        yield tie(call.y, axis, call.x, axis, own[inner], own[inner] - before)
        yield cover(call.y, axis, own[~inner])


def _pad_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """Count what is left of the padding, or of what a negative one crops."""
    pads = _pads(call)
    assert pads is not None
    new = []
    for axis, (before, after) in enumerate(pads):
        left, made = kept(call.x, axis), kept(call.y, axis)
        first = (made < before).sum() if before > 0 else -(left < -before).sum()
        last = (made >= call.y.shape[axis] - after).sum() if after > 0 else -(left >= call.x.shape[axis] + after).sum()
        new.append((int(first), int(last)))
    axes = call.ints("axes", 3) or range(call.x.rank)
    new = [new[normal_axis(a, call.x.rank)] for a in axes]
    set_ints(node, "pads", 1, [b for b, _ in new] + [a for _, a in new])


def _indices(call: Call) -> np.ndarray | None:
    """Constant indices of a Gather, counted from the front."""
    indices = call.inputs[1]
    if indices is None or indices.constant is None:
        return None
    size = call.x.shape[normal_axis(call.attrs.get("axis", 0), call.x.rank)]
    values = indices.values.astype(np.int64)
    return np.where(values < 0, values + size, values)


def _gather_ties(call: Call) -> Ties:
    x, y = call.x, call.y
    at = normal_axis(call.attrs.get("axis", 0), x.rank)
    indices = call.inputs[1]
    assert indices is not None
    for axis in range(x.rank):
        if axis < at:
            yield tie(x, axis, y, axis)
        elif axis > at:
            yield tie(x, axis, y, axis + indices.rank - 1)
    picked = _indices(call)
    if picked is not None and picked.ndim == 1 and len(np.unique(picked)) == len(picked):
        yield tie(y, at, x, at, np.arange(len(picked)), picked)
    elif picked is None:
        for axis in range(indices.rank):
            yield tie(indices, axis, y, at + axis)


def _gather_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """Renumber constant indices into what is left of the axis they count on."""
    picked = _indices(call)
    if picked is None:
        return
    at = normal_axis(call.attrs.get("axis", 0), call.x.rank)
    left = kept(call.x, at)
    if picked.ndim == 1 and call.y.shape[at] == len(picked):
        picked = picked[kept(call.y, at)]
    _gather(node, at, np.searchsorted(left, picked))


def _gather_counting(call: Call) -> Counting | None:
    return Counting(1, (call.x.dim(call.attrs.get("axis", 0)),)) if _indices(call) is None else None


def _pad_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    value = call.input(2)
    added = call.attrs.get("value", 0) if value is None else value.constant is None or value.values.any()
    return never(call, zero) if added else first(call, zero)


RULES = {
    "Concat": Rule(_concat_ties, silence=some),
    "Split": Rule(_split_ties, _split_repair, silence=first),
    "Slice": Rule(_slice_ties, _slice_repair, silence=first),
    "Transpose": Rule(_transpose_ties, silence=first),
    "Squeeze": Rule(_renumbered_ties, _squeeze_repair, silence=first),
    "Unsqueeze": Rule(_renumbered_ties, silence=first),
    "Pad": Rule(_pad_ties, _pad_repair, silence=_pad_silence),
    "Gather": Rule(_gather_ties, _gather_repair, silence=first, counts=_gather_counting),
}
