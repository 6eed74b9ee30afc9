"""Operators that pick or place elements by index: the axes counted on stay, the others pass through.

An update that is zero still overwrites, so the axes along which updates are counted stay as well. Where the indices are
what a router has chosen, the axis counted on goes with what was chosen from.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import Call, Counting, Kept, Operand, Rule, Ties, first, normal_axis, tie


def _second(call: Call) -> Operand:
    second = call.input(1)
    assert second is not None
    return second


def _prefix(short: Operand, whole: Operand, axis: int) -> Ties:
    """Position k of the shorter axis is position k of the other."""
    yield tie(short, axis, whole, axis, at_b=np.arange(short.shape[axis]))


def _gather_elements_ties(call: Call) -> Ties:
    """Off the axis counted on, an index picks at its own position."""
    indices = _second(call)
    at = normal_axis(call.attrs.get("axis", 0), call.x.rank)
    for axis in range(call.x.rank):
        yield tie(indices, axis, call.y, axis)
        if axis != at:
            yield from _prefix(indices, call.x, axis)


def _gather_elements_counting(call: Call) -> Counting:
    return Counting(1, (call.x.dim(call.attrs.get("axis", 0)),))


def _scatter_elements_counting(call: Call) -> Counting:
    axis = call.attrs.get("axis", 0)
    return Counting(1, (call.x.dim(axis), call.y.dim(axis)))


def _gather_nd_counting(call: Call) -> Counting | None:
    """Tuples of a single number count on the first axis."""
    single = _second(call).shape[-1] == 1 and not call.attrs.get("batch_dims", 0)
    return Counting(1, (call.x.dim(0),)) if single else None


def _one_hot_counting(call: Call) -> Counting:
    values = call.input(2)
    assert values is not None
    at = normal_axis(call.attrs.get("axis", -1), call.y.rank)
    return Counting(0, (call.y.dim(at),), empty=values.constant is not None and not values.values[0])


def _one_hot_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    depth = call.input(1)
    assert depth is not None
    left = len(kept(call.y, normal_axis(call.attrs.get("axis", -1), call.y.rank)))
    if depth.constant is not None and left != int(depth.values.reshape(-1)[0]):
        number = np.full(depth.shape, left, depth.constant.dtype)
        node.inputs[1] = gs.Constant(f"{node.outputs[0].name}:depth", number)


def _scatter_elements_ties(call: Call) -> Ties:
    """Off the axis counted on, an update lands at its own position."""
    at = normal_axis(call.attrs.get("axis", 0), call.x.rank)
    for axis in range(call.x.rank):
        if axis != at:
            yield tie(call.x, axis, call.y, axis)
            for short in call.inputs[1:]:
                assert short is not None
                yield from _prefix(short, call.x, axis)


def _gather_nd_ties(call: Call) -> Ties:
    """Each tuple of indices picks a slice; axes before and behind those counted on pass through."""
    x, y, indices = call.x, call.y, _second(call)
    batch, depth = int(call.attrs.get("batch_dims", 0)), indices.shape[-1]
    for axis in range(batch):
        yield tie(x, axis, y, axis)
    for axis in range(indices.rank - 1):
        yield tie(indices, axis, y, axis)
    for axis in range(batch + depth, x.rank):
        yield tie(x, axis, y, y.rank - x.rank + axis)


def _scatter_nd_ties(call: Call) -> Ties:
    """Each tuple of indices places a slice; the axes behind those counted on pass through."""
    indices, updates = _second(call), call.input(2)
    assert updates is not None
    for axis in range(indices.shape[-1], call.x.rank):
        yield tie(call.x, axis, call.y, axis)
        yield tie(updates, updates.rank - call.x.rank + axis, call.y, axis)


def _compress_ties(call: Call) -> Ties:
    """A constant condition loses the positions that go."""
    condition, at = _second(call), call.attrs.get("axis")
    if at is None:
        return
    at = normal_axis(at, call.x.rank)
    for axis in range(call.x.rank):
        if axis != at:
            yield tie(call.x, axis, call.y, axis)
        elif condition.constant is not None:
            known = np.arange(condition.shape[0])
            picked = np.flatnonzero(condition.values)
            yield tie(condition, 0, call.x, axis, at_b=known)
            yield tie(call.y, axis, call.x, axis, at_b=picked)


def _one_hot_ties(call: Call) -> Ties:
    """The axes of the indices pass through, around the new one."""
    at = normal_axis(call.attrs.get("axis", -1), call.y.rank)
    for axis in range(call.x.rank):
        yield tie(call.x, axis, call.y, axis + (axis >= at))


def _tensor_scatter_ties(call: Call) -> Ties:
    """A cache takes up new steps at places given for each row of the batch."""
    update = _second(call)
    at = normal_axis(call.attrs.get("axis", -2), call.x.rank)
    for axis in range(1, call.x.rank):
        if axis != at:
            yield tie(call.x, axis, call.y, axis)
            yield tie(update, axis, call.y, axis)


RULES = {
    "Compress": Rule(_compress_ties),
    "GatherElements": Rule(_gather_elements_ties, counts=_gather_elements_counting, silence=first),
    "GatherND": Rule(_gather_nd_ties, counts=_gather_nd_counting, silence=first),
    "OneHot": Rule(_one_hot_ties, _one_hot_repair, counts=_one_hot_counting),
    **dict.fromkeys(["Scatter", "ScatterElements"], Rule(_scatter_elements_ties, counts=_scatter_elements_counting)),
    "ScatterND": Rule(_scatter_nd_ties),
    "TensorScatter": Rule(_tensor_scatter_ties),
}
