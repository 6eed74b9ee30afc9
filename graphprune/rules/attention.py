"""Attention as one operator: a unit is a head, or a group of heads that share a key and value head.

After Vaswani et al. 2017 and, for heads that share keys, Ainslie et al. 2023. Sequences stay: every position looks at
all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import Call, Kept, Operand, Pin, Rule, Ties, tie

_WHY = "{op} needs whole heads, and every position of its sequences"


@dataclass(frozen=True)
class _Heads:
    """The heads of an output, along one of its axes, in ``groups`` that go whole."""

    y: Operand
    axis: int
    groups: int

    def ties(self, operand: Operand | None, axis: int, at: np.ndarray | None = None) -> Ties:
        """Positions ``at`` of another axis (all of them) belong to the same groups, in order."""
        if operand is None or operand.shape[axis] == 1:
            return
        at = np.arange(operand.shape[axis]) if at is None else at
        group = np.arange(len(at)) * self.groups // len(at)
        width = self.y.shape[self.axis] // self.groups
        yield tie(operand, axis, self.y, self.axis, at, group * width)


def _given(call: Call, index: int) -> Operand:
    operand = call.input(index)
    assert operand is not None
    return operand


def _batch(call: Call, inputs: Sequence[int], outputs: Sequence[Operand | None], axis: int = 0) -> Ties:
    """An axis of operands is the batch, or one of 1 for all of it; else the batch stays as it is."""
    for operand in (*map(call.input, inputs), *outputs):
        if operand is None or operand.shape[axis] == 1:
            continue
        if operand.shape[axis] == call.y.shape[0]:
            yield tie(operand, axis, call.y, 0)
        else:
            yield Pin(call.y.dim(0), "counted in another way by one of its inputs")


def _count(attribute: str, heads: int, kept: Kept, operand: Operand, axis: int, node: gs.Node) -> None:
    """The share of an axis that is left is the share of heads that is left."""
    node.attrs[attribute] = heads * len(kept(operand, axis)) // operand.shape[axis]


# ------------------------------------------------------------------------------- with the projections in it, packed


def _packed_sizes(call: Call) -> list[int]:
    """How many columns of the weight are queries, keys and values."""
    columns = _given(call, 1).shape[1]
    return [int(n) for n in call.attrs.get("qkv_hidden_sizes") or [columns // 3] * 3]


def _packed_ties(call: Call) -> Ties:
    heads = _Heads(call.y, 2, int(call.attrs["num_heads"]))
    weight, bounds = _given(call, 1), np.cumsum([0, *_packed_sizes(call)])
    yield from _batch(call, (0, 3, 5), ())
    yield from _batch(call, (4,), call.outputs[1:], axis=1)  # keys and values in one tensor
    yield tie(call.x, 2, weight, 0, summed=True)
    yield from heads.ties(call.y, 2)
    for operand, axis in ((weight, 1), (call.input(2), 0)):
        for start, end in pairwise(bounds):
            yield from heads.ties(operand, axis, np.arange(start, end))
    for operand, axis in ((call.input(4), 2), (call.input(5), 1), (call.outputs[1] if call.outputs[1:] else None, 2)):
        yield from heads.ties(operand, axis)


def _packed_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    heads = int(call.attrs["num_heads"])
    _count("num_heads", heads, kept, call.y, 2, node)
    if "qkv_hidden_sizes" in node.attrs:
        node.attrs["qkv_hidden_sizes"] = [n * node.attrs["num_heads"] // heads for n in _packed_sizes(call)]


def _packed_macs(call: Call) -> int:
    rows, values, columns = prod(call.x.shape[:2]), call.y.shape[2], _given(call, 1).shape[1]
    return rows * call.x.shape[2] * columns + rows * call.x.shape[1] * (columns + values) // 2


# ------------------------------------------------------------------------------------------- behind the projections


def _multi_head_ties(call: Call) -> Ties:
    """Queries, keys and values as [batch, steps, heads · width], or keys and values as [batch, heads, steps, width]."""
    x, key, value = call.x, call.input(1), call.input(2)
    heads = _Heads(call.y, 2, int(call.attrs["num_heads"]))
    yield from _batch(call, (0, 1, 2, 4, 5, 6, 7), call.outputs[1:])
    yield from heads.ties(call.y, 2)
    for operand in (x, key, value):
        if operand is not None:
            packed = {3: 2, 4: 1, 5: 2}  # of rank 5: [batch, steps, heads, parts, width]
            yield from heads.ties(operand, packed[operand.rank])
    if (bias := call.input(3)) is not None:
        values = call.y.shape[2]
        bounds = [0, (bias.shape[0] - values) // 2, bias.shape[0] - values, bias.shape[0]]
        for start, end in pairwise(bounds):
            yield from heads.ties(bias, 0, np.arange(start, end))
    for operand in (call.input(5), call.input(6), call.input(7), *call.outputs[1:]):
        yield from heads.ties(operand, 1)


def _multi_head_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    _count("num_heads", int(call.attrs["num_heads"]), kept, call.y, 2, node)


def _grouped_ties(call: Call) -> Ties:
    """Keys and values of a group go with all its queries; all three may stand side by side in the first input."""
    shared = int(call.attrs["kv_num_heads"])
    heads = _Heads(call.y, 2, shared)
    yield from _batch(call, (0, 1, 2, 3, 4, 5, 9, 10), call.outputs[1:])
    yield from heads.ties(call.y, 2)
    queries = call.y.shape[2]
    keys = (call.x.shape[2] - queries) // 2
    bounds = [0, queries, queries + keys, queries + 2 * keys] if call.input(1) is None else [0, queries]
    for start, end in pairwise(bounds):
        yield from heads.ties(call.x, 2, np.arange(start, end))
    for operand, axis in ((call.input(1), 2), (call.input(2), 2), (call.input(3), 1), (call.input(4), 1)):
        yield from heads.ties(operand, axis)
    for operand in (call.input(10), *call.outputs[1:]):
        yield from heads.ties(operand, 1)
    yield from heads.ties(call.input(11), 0)


def _grouped_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    for attribute in ("num_heads", "kv_num_heads"):
        _count(attribute, int(call.attrs[attribute]), kept, call.y, 2, node)


def _standard_axis(operand: Operand) -> int:
    return 1 if operand.rank == 4 else 2


def _standard_ties(call: Call) -> Ties:
    """Opset 23: heads are an axis of their own, or are counted by attributes."""
    key = _given(call, 1)
    shared = key.shape[1] if key.rank == 4 else int(call.attrs["kv_num_heads"])
    heads = _Heads(call.y, _standard_axis(call.y), shared)
    mask = call.input(3)
    masks = [3] if mask is not None and mask.rank == 4 else []  # of fewer axes, it is the same for all
    yield from _batch(call, [0, 1, 2, *masks, 4, 5, 6], call.outputs[1:])
    yield from heads.ties(call.y, heads.axis)
    for index in (0, 1, 2):
        yield from heads.ties(_given(call, index), _standard_axis(_given(call, index)))
    for operand in (mask if mask is not None and mask.rank == 4 else None, *call.inputs[4:6], *call.outputs[1:]):
        yield from heads.ties(operand, 1)


def _standard_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    for attribute in ("q_num_heads", "kv_num_heads"):
        if attribute in node.attrs:
            _count(attribute, int(call.attrs[attribute]), kept, call.y, _standard_axis(call.y), node)


def _macs(call: Call) -> int:
    """Queries by keys, and what comes of it by values."""
    key = call.input(1)
    steps = call.x.shape[1] if key is None else key.shape[2 if key.rank == 4 else 1]
    return 2 * prod(call.y.shape) * steps


# -------------------------------------------------------------------------------------------------- rotary positions


def _rotary_ties(call: Call, tables: tuple[int, int]) -> Ties:
    """Su et al. 2021: a pair of numbers turns by an angle of its own, the same for all heads; both go or stay."""
    x, y, table = call.x, call.y, _given(call, tables[0])
    for axis in range(x.rank):
        yield tie(x, axis, y, axis)
    (places,) = {1, 2, 3} - {*tables}
    for index in (places,) if call.input(places) else tables:  # without places, tables have an entry for every one
        if (placed := _given(call, index)).rank > 1:
            yield from _batch(call, (index,), ())
            yield tie(placed, 1, y, y.rank - 2)
        else:
            yield Pin(y.dim(-2), "counted from the place of the first")
    half = table.shape[-1]
    heads = int(call.attrs.get("num_heads", 0)) or y.shape[-1] // (2 * half)
    if x.rank == 3:
        yield from _Heads(y, 2, heads).ties(y, 2)
    elif 2 * half == y.shape[-1]:
        own = np.arange(2 * half)
        pair = own // 2 if call.attrs.get("interleaved", 0) else own % half
        first = 2 * np.arange(half) if call.attrs.get("interleaved", 0) else np.arange(half)
        yield tie(y, 3, y, 3, at_b=first[pair])
        for index in tables:
            yield tie(_given(call, index), _given(call, index).rank - 1, y, 3, at_b=first)
    else:
        yield tie(y, 3, y, 3, at_b=np.zeros(y.shape[3], np.int64))


def _rotary_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    if call.attrs.get("num_heads", 0):
        _count("num_heads", int(call.attrs["num_heads"]), kept, call.y, 2 if call.y.rank == 3 else 1, node)
    if call.y.rank == 4 and call.attrs.get("rotary_embedding_dim", 0) == call.y.shape[3]:
        node.attrs["rotary_embedding_dim"] = len(kept(call.y, 3))


def _rotary(*tables: int) -> Rule:
    first, second = tables

    def silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
        return zero[0]

    return Rule(lambda call: _rotary_ties(call, (first, second)), _rotary_repair, silence=silence)


def _attention(op: str, *parts: object) -> Rule:
    ties, repair, macs = parts
    return Rule(ties, repair, macs, why=_WHY.format(op=op))  # type: ignore[arg-type]


RULES = {
    "Attention": _attention("Attention", _standard_ties, _standard_repair, _macs),
    "RotaryEmbedding": _rotary(1, 2),
    "com.microsoft.Attention": _attention("Attention", _packed_ties, _packed_repair, _packed_macs),
    "com.microsoft.GroupQueryAttention": _attention("GroupQueryAttention", _grouped_ties, _grouped_repair, _macs),
    "com.microsoft.MultiHeadAttention": _attention("MultiHeadAttention", _multi_head_ties, _multi_head_repair, _macs),
    "com.microsoft.RotaryEmbedding": _rotary(2, 3),
}
