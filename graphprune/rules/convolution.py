"""Convolutions: each output channel owns a filter, each input channel a slice of every filter."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import Call, Choice, Kept, Operand, Rule, Tie, Ties, affine, tie
from graphprune.rules.layer import Layer


def _weight(call: Call) -> Operand:
    weight = call.inputs[1]
    assert weight is not None
    return weight


def _groups(call: Call) -> int:
    return int(call.attrs.get("group", 1))


def _bias(call: Call) -> Ties:
    if (bias := call.input(2)) is not None:
        yield tie(bias, 0, call.y, 1)


def _whole_groups(call: Call) -> Tie:
    """The inputs and outputs of one group go together: of a depthwise convolution a channel and what is made of it."""
    x, y = np.arange(call.x.shape[1]), np.arange(call.y.shape[1])
    inputs, outputs = (len(channels) // _groups(call) for channels in (x, y))
    of_x, of_y = x // inputs, y // outputs
    return tie(call.x, 1, call.y, 1, np.r_[x, of_y * inputs], np.r_[of_x * outputs, y])


def _same_in_every_group(a: Operand, groups: int) -> Tie:
    """Channels at the same offset of every group go together, which keeps the groups equal in size."""
    return tie(a, 1, a, 1, at_b=np.arange(a.shape[1]) % (a.shape[1] // groups))


def _grouped(call: Call, offsets: tuple[Tie, ...], alike: Operand) -> Ties:
    """Of several groups either some go whole, or all lose the ``offsets`` that their weights share.

    ``alike`` is the operand whose weights are laid out group after group.
    """
    if _groups(call) == 1:
        yield from offsets
    elif _groups(call) == call.x.shape[1]:
        yield _whole_groups(call)
    else:
        yield Choice(((_whole_groups(call),), (*offsets, _same_in_every_group(alike, _groups(call)))))


def _conv_ties(call: Call) -> Ties:
    x, w, y = call.x, _weight(call), call.y
    yield tie(x, 0, y, 0)
    yield tie(w, 0, y, 1)
    yield from _bias(call)
    yield from _grouped(call, (tie(x, 1, w, 1, at_b=np.arange(x.shape[1]) % w.shape[1], summed=True),), y)


def _transposed_ties(call: Call) -> Ties:
    x, w, y = call.x, _weight(call), call.y
    yield tie(x, 0, y, 0)
    yield from _bias(call)
    yield tie(x, 1, w, 0, summed=True)
    yield from _grouped(call, (tie(y, 1, w, 1, at_b=np.arange(y.shape[1]) % w.shape[1]),), x)


def _deformed_ties(call: Call) -> Ties:
    """Dai et al. 2017: where the kernel looks is given from outside, for all channels or for a few parts of them."""
    x, w, y = call.x, _weight(call), call.y
    yield tie(w, 0, y, 1)
    if (bias := call.input(3)) is not None:
        yield tie(bias, 0, y, 1)
    yield _same_in_every_group(x, int(call.attrs.get("offset_group", 1)))
    yield from _grouped(call, (tie(x, 1, w, 1, at_b=np.arange(x.shape[1]) % w.shape[1], summed=True),), y)


def _causal_ties(call: Call) -> Ties:
    """A depthwise convolution over steps, with the steps before them handed on as a state."""
    for index, operand in enumerate((*call.inputs, *call.outputs)):
        if operand is not None:
            yield tie(operand, 0 if index in (1, 2) else 1, call.y, 1)


def _repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """Count the groups that are left."""
    if _groups(call) > 1:
        node.attrs["group"] = len(kept(call.x, 1)) // len(kept(_weight(call), 1))


def _transposed_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    if _groups(call) > 1:
        node.attrs["group"] = len(kept(call.y, 1)) // len(kept(_weight(call), 1))


def _conv_macs(call: Call) -> int:
    return prod(call.y.shape) * prod(_weight(call).shape[1:])


def _transposed_macs(call: Call) -> int:
    return prod(call.x.shape) * prod(_weight(call).shape[1:])


def _conv_layer(call: Call) -> Layer | None:
    """Every output pixel is a product with the patch below it; a depthwise convolution sums over no channels."""
    weight, parts = _weight(call), _groups(call)
    if weight.constant is None or 1 < parts == call.x.shape[1]:
        return None
    kernel = weight.shape[2:]
    rank = len(kernel)
    strides = call.attrs.get("strides", [1] * rank)
    dilations = call.attrs.get("dilations", [1] * rank)
    if {len(strides), len(dilations), len(call.attrs.get("pads", [0] * 2 * rank)) / 2} != {rank}:
        return None
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = padding(call, strides, reach)

    def outputs(shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = zip(shape[2:], pads, reach, strides, strict=True)
        return (shape[0], *((size + sum(pad) - r) // s + 1 for size, pad, r, s in sizes))

    def unfold(x: np.ndarray, at: np.ndarray) -> np.ndarray:
        image, *where = np.unravel_index(at, outputs(x.shape))
        padded = np.pad(x, [(0, 0), (0, 0), *pads]) if any(map(sum, pads)) else x
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + rank)))
        every: tuple[Any, ...] = (..., *(slice(None, None, d) for d in dilations))
        windows = windows[every]
        starts = tuple(w * s for w, s in zip(where, strides, strict=True))
        wanted: tuple[Any, ...] = (image, slice(None), *starts)
        patches = windows[wanted]  # [p, channels, *kernel]
        return np.moveaxis(patches.reshape(len(at), parts, -1), 1, 0)

    return Layer(
        call.x.name,
        call.y.name,
        weight.name,
        2,
        True,
        1,
        parts,
        prod(kernel),
        lambda shape: prod(outputs(shape)),
        unfold,
    )


def padding(call: Call, strides: Sequence[int], reach: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and after each spatial axis."""
    rank = len(reach)
    mode = call.attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = call.attrs.get("pads", [0] * 2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * rank
    total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(call.x.shape[2:], strides, reach, strict=True)]
    return [(t // 2, t - t // 2) if mode == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]


def _transposed_layer(call: Call) -> Layer | None:
    """Every input pixel is multiplied into a patch of outputs, each tap an output of its own; patches may overlap."""
    weight = _weight(call)
    if weight.constant is None or _groups(call) > 1:
        return None

    def unfold(x: np.ndarray, at: np.ndarray) -> np.ndarray:
        image, *where = np.unravel_index(at, (x.shape[0], *x.shape[2:]))
        wanted: tuple[Any, ...] = (image, slice(None), *where)
        return x[wanted][None]

    def positions(shape: tuple[int, ...]) -> int:
        return shape[0] * prod(shape[2:])

    return Layer(call.x.name, call.y.name, weight.name, None, False, 0, 1, 1, positions, unfold)


RULES = {
    "Conv": Rule(_conv_ties, _repair, _conv_macs, layer=_conv_layer, silence=affine),
    "CausalConvWithState": Rule(_causal_ties, macs=_conv_macs),
    "DeformConv": Rule(_deformed_ties, _repair, _conv_macs),
    "ConvTranspose": Rule(
        _transposed_ties, _transposed_repair, _transposed_macs, layer=_transposed_layer, silence=affine
    ),
}
