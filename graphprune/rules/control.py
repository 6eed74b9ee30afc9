"""Operators with bodies; and those that nothing passes through, on purpose: what they touch stays, for a reason.

The nodes of a body are coupled like any others; the rules here say what goes into it and comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from graphprune.rules.base import Call, Operand, Rule, Ties, tie, tie_all

_BODIES = "used inside the body of {op}, which is not looked into"
_FOUND = "how much {op} finds depends on the values"
_RANDOM = "{op} draws every number from one stream, so fewer numbers would be other numbers"
_LOSS = "{op} is a loss over all classes"
_CONTAINER = "{op} keeps whole tensors in a container"
_TEXT = "{op} works on text"
_SIGNAL = "{op} is of the frequencies of a signal"

_REASONS = {
    _BODIES: ["SequenceMap"],
    _FOUND: ["NonMaxSuppression", "NonZero", "Unique"],
    _RANDOM: ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"],
    _LOSS: ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"],
    _CONTAINER: [
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
    ],
    _TEXT: ["RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"],
    _SIGNAL: ["BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "STFT"],
    "{op} divides by a variance, which is zero where everything is": ["MeanVarianceNormalization"],
    "{op} scales by the largest of all values": ["DynamicQuantizeLinear"],
    "{op} makes coordinates of pixels": ["AffineGrid"],
    "{op} places every value by a number that counts over the whole tensor": ["MaxUnpool"],
    "{op} has ones where its two axes are equal": ["EyeLike"],
    "{op} counts from a start to a limit": ["Range"],
    "{op} counts all elements": ["Size"],
    "{op} decodes a file": ["ImageDecoder"],
}


def _nothing(call: Call) -> Ties:
    return iter(())


def _same(*operands: Operand | None) -> Ties:
    """Operands that are one and the same tensor, at different times or in different places."""
    there = [o for o in operands if o is not None]
    for a, b in pairwise(there):
        if a.rank == b.rank:
            yield from tie_all(a, b)


def _if_ties(call: Call) -> Ties:
    """An output is what either branch makes."""
    for body in call.bodies:
        for made, given in zip(body.outputs, call.outputs, strict=False):
            yield from _same(made, given)


def _if_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Zero where it is in both branches."""
    return np.sum(zero, axis=0) >= 2


def _loop_ties(call: Call) -> Ties:
    """What is carried from run to run is one tensor; the rest is stacked, run by run."""
    for body in call.bodies:
        carried = call.inputs[2:]
        given, made = body.inputs[2:], body.outputs[1:]
        yield from _carried(carried, given, made, call.outputs)
        for one, all_of_them in zip(made[len(carried) :], call.outputs[len(carried) :], strict=False):
            yield from _stacked(one, all_of_them, 0)


def _scan_ties(call: Call) -> Ties:
    """As of a Loop; the other inputs are taken apart along an axis."""
    for body in call.bodies:
        count = int(call.attrs["num_scan_inputs"])
        states = len(call.inputs) - count
        yield from _carried(call.inputs[:states], body.inputs, body.outputs, call.outputs)
        for whole, one, axis in zip(
            call.inputs[states:], body.inputs[states:], _axes(call, "scan_input_axes", count), strict=False
        ):
            yield from _stacked(one, whole, axis)
        rest = body.outputs[states:]
        for one, whole, axis in zip(
            rest, call.outputs[states:], _axes(call, "scan_output_axes", len(rest)), strict=False
        ):
            yield from _stacked(one, whole, axis)


def _axes(call: Call, attribute: str, count: int) -> list[int]:
    return [int(axis) for axis in call.attrs.get(attribute) or [0] * count]


def _carried(
    carried: Sequence[Operand | None],
    given: Sequence[Operand | None],
    made: Sequence[Operand | None],
    last: Sequence[Operand | None],
) -> Ties:
    for start, before, after, end in zip(carried, given, made, last, strict=False):
        if start is None or before is None or after is None:
            continue  # nothing of it passes
        yield from _same(start, before, after, end)


def _stacked(one: Operand | None, whole: Operand | None, along: int) -> Ties:
    """A tensor and many of it along a further axis."""
    if one is not None and whole is not None and whole.rank == one.rank + 1:
        for axis in range(one.rank):
            yield tie(one, axis, whole, axis + (axis >= along % whole.rank))


_RUNS = "{op} runs along it, or makes it of a size that depends on the values"

RULES = {op: Rule(_nothing, why=why.format(op=op)) for why, ops in _REASONS.items() for op in ops}
PINNING = frozenset(RULES)
RULES |= {
    "If": Rule(_if_ties, why="its branches differ in it", silence=_if_silence),
    "Loop": Rule(_loop_ties, why=_RUNS.format(op="Loop")),
    "Scan": Rule(_scan_ties, why=_RUNS.format(op="Scan")),
}
