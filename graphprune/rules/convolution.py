"""Convolutions: each output channel owns a filter, each input channel a slice of every filter."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import Call, Kept, Operand, Rule, Ties, contraction, tie


def _weight(call: Call) -> Operand:
    weight = call.inputs[1]
    assert weight is not None
    return weight


def _groups(call: Call) -> int:
    return int(call.attrs.get("group", 1))


def _bias(call: Call) -> Ties:
    if (bias := call.input(2)) is not None:
        yield tie(bias, 0, call.y, 1)


def _depthwise(call: Call) -> Ties:
    """One input channel per group: it owns ``multiplier`` outputs (Chollet 2017)."""
    multiplier = call.y.shape[1] // call.x.shape[1]
    outputs = np.arange(call.y.shape[1])
    yield tie(call.x, 1, call.y, 1, outputs // multiplier, outputs)


def _same_in_every_group(a: Operand, groups: int) -> Ties:
    """Channels at the same offset of every group go together, which keeps the groups equal in size."""
    if groups > 1:
        yield tie(a, 1, a, 1, at_b=np.arange(a.shape[1]) % (a.shape[1] // groups))


def _conv_ties(call: Call) -> Ties:
    x, w, y, groups = call.x, _weight(call), call.y, _groups(call)
    yield tie(x, 0, y, 0)
    yield tie(w, 0, y, 1)
    yield from _bias(call)
    if 1 < groups == x.shape[1]:
        yield from _depthwise(call)
    else:
        yield from contraction(x, 1, w, 1, np.arange(x.shape[1]) % w.shape[1])
        yield from _same_in_every_group(y, groups)


def _transposed_ties(call: Call) -> Ties:
    x, w, y, groups = call.x, _weight(call), call.y, _groups(call)
    yield tie(x, 0, y, 0)
    yield from _bias(call)
    if 1 < groups == x.shape[1]:
        yield tie(x, 1, w, 0)
        yield from _depthwise(call)
    else:
        yield from contraction(x, 1, w, 0)
        yield tie(y, 1, w, 1, at_b=np.arange(y.shape[1]) % w.shape[1])
        yield from _same_in_every_group(x, groups)


def _repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """A depthwise convolution has as many groups as input channels are left."""
    if _groups(call) > 1 and _groups(call) == call.x.shape[1]:
        node.attrs["group"] = len(kept(call.x, 1))


def _conv_macs(call: Call) -> int:
    return prod(call.y.shape) * prod(_weight(call).shape[1:])


def _transposed_macs(call: Call) -> int:
    return prod(call.x.shape) * prod(_weight(call).shape[1:])


RULES = {
    "Conv": Rule(_conv_ties, _repair, _conv_macs),
    "ConvTranspose": Rule(_transposed_ties, _repair, _transposed_macs),
}
