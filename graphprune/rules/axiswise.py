"""Operators that work along some axes: those stay, the others pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from graphprune.rules.base import Call, Routing, Rule, Ties, cover, normal_axis, tie

Axes = Callable[[Call], Iterable[int] | None]
"""The axes a call works along; ``None`` where they are computed at run time."""


def _attribute(call: Call) -> Iterable[int]:
    return (call.attrs.get("axis", -1),)


def _along(axes: Axes, why: str) -> Rule:
    def ties(call: Call) -> Ties:
        given = axes(call)
        if given is None:
            return
        held = {normal_axis(axis, call.x.rank) for axis in given}
        for axis in range(call.x.rank):
            for y in call.outputs:
                if axis not in held and y is not None:
                    yield tie(call.x, axis, y, axis)

    return Rule(ties, why=why)


def _dft_axes(call: Call) -> Iterable[int] | None:
    """The transformed axis, and the last, of real and imaginary parts; newer opsets take the former as an input."""
    if call.opset < 20:
        return call.attrs.get("axis", 1), -1
    axis = call.ints("axis", 2)
    return (-2, -1) if call.input(2) is None else axis and (*axis, -1)


def _batch_and_time(call: Call) -> Iterable[int]:
    return call.attrs.get("batch_axis", 1), call.attrs.get("time_axis", 0)


def _top_k_routing(call: Call) -> Routing | None:
    """The greatest are chosen, and a position that holds minus infinity never is while enough others are left.

    Where nobody asks which were chosen, they are numbers sorted by value, and no choice.
    """
    count = call.attrs.get("k") if call.opset < 10 else (call.ints("k", 1) or [0])[0]
    axis = normal_axis(call.attrs.get("axis", -1), call.x.rank)
    floating = call.x.dtype is not None and call.x.dtype.kind == "f"
    if not count or not floating or not call.attrs.get("largest", 1) or not any(call.outputs[1:]):
        return None
    return Routing(0, axis, int(count), numbers=1)


def _top_k_ties(call: Call) -> Ties:
    yield from _TOP_K.ties(call)
    if (routing := _top_k_routing(call)) is not None:
        yield cover(call.x, routing.axis, np.arange(call.x.shape[routing.axis]))


_TOP_K = _along(_attribute, "sorted by value")

RULES = {
    "CenterCropPad": _along(
        lambda call: call.attrs.get("axes", range(call.x.rank)), "cropped or padded to a given size"
    ),
    "CumProd": _along(lambda call: call.ints("axis", 1), "multiplied up along"),
    "CumSum": _along(lambda call: call.ints("axis", 1), "summed up along"),
    "DFT": _along(_dft_axes, "transformed along"),
    "Det": _along(lambda call: (-2, -1), "makes up the determinant"),
    "ReverseSequence": _along(_batch_and_time, "reversed, each sequence by its own length"),
    "TopK": replace(_TOP_K, ties=_top_k_ties, routes=_top_k_routing),
    "Trilu": _along(lambda call: (-2, -1), "a part of the triangle"),
}
