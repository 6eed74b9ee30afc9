"""Operators on whole numbers that stand for real ones: each is the operator it computes, with scales beside it.

A weight is silent where it is its zero point, which stands for 0 (Jacob et al. 2018, section 2.1).
"""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs

from graphprune.rules import convolution, linear
from graphprune.rules.base import Call, Kept, Rule, Ties, normal_axis, tie


def _computed_by(rule: Rule, operands: tuple[int, ...], channel: int, *per_channel: int, zero: int) -> Rule:
    """An operator that does what ``rule``'s does on the inputs at ``operands``, the second of which is the weight.

    ``per_channel`` are the inputs that hold one number for all, or one for each position of axis ``channel`` of the
    output; the input at ``zero`` holds the weight's zero points.
    """

    def plain(call: Call) -> Call:
        return replace(call, inputs=tuple(call.input(k) for k in operands))

    def ties(call: Call) -> Ties:
        yield from rule.ties(plain(call))
        for index in per_channel:
            if (numbers := call.input(index)) is not None and numbers.shape == (call.y.shape[channel],):
                yield tie(numbers, 0, call.y, normal_axis(channel, call.y.rank))

    def repair(node: gs.Node, call: Call, kept: Kept) -> None:
        if rule.repair is not None:
            rule.repair(node, plain(call), kept)

    return Rule(ties, repair, lambda call: rule.macs(plain(call)), zero_points={operands[1]: zero})


def _scaled_ties(call: Call) -> Ties:
    """Every element alike; scales and zero points are one for all, or one for each position or block of an axis."""
    x, y = call.x, call.y
    at = normal_axis(call.attrs.get("axis", 1), x.rank)
    blocks = call.attrs.get("block_size", 0)
    for axis in range(x.rank):
        if axis != at or not blocks:
            yield tie(x, axis, y, axis)
    for numbers in call.inputs[1:]:
        if numbers is None:
            continue
        for axis in range(numbers.rank) if blocks else ():
            if axis != at:
                yield tie(numbers, axis, y, axis)
        if not blocks and y.rank and numbers.shape == (y.shape[at],):
            yield tie(numbers, 0, y, at)


_CONV, _MATMUL = convolution.RULES["Conv"], linear.RULES["MatMul"]
RULES = {
    "ConvInteger": _computed_by(_CONV, (0, 1), 1, 3, zero=3),
    "DequantizeLinear": Rule(_scaled_ties, zero_points={0: 2}),
    "MatMulInteger": _computed_by(_MATMUL, (0, 1), -1, 3, zero=3),
    "QLinearConv": _computed_by(_CONV, (0, 3, 8), 1, 4, 5, zero=5),
    "QLinearMatMul": _computed_by(_MATMUL, (0, 3), -1, 4, 5, zero=5),
    "QuantizeLinear": Rule(_scaled_ties, neutral={1: 1.0}),
}
