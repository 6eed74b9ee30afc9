"""Operators that work along some axes: those stay, the others pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphprune.rules.base import Call, Rule, Ties, normal_axis, tie

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


RULES = {
    "CenterCropPad": _along(
        lambda call: call.attrs.get("axes", range(call.x.rank)), "cropped or padded to a given size"
    ),
    "CumProd": _along(lambda call: call.ints("axis", 1), "multiplied up along"),
    "CumSum": _along(lambda call: call.ints("axis", 1), "summed up along"),
    "DFT": _along(_dft_axes, "transformed along"),
    "Det": _along(lambda call: (-2, -1), "makes up the determinant"),
    "LpNormalization": _along(_attribute, "normalised over"),
    "ReverseSequence": _along(_batch_and_time, "reversed, each sequence by its own length"),
    "TopK": _along(_attribute, "sorted by value"),
    "Trilu": _along(lambda call: (-2, -1), "a part of the triangle"),
}
