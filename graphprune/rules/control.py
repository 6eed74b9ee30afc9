"""Operators that nothing passes through, on purpose: what they touch stays, for the reason given here."""

from __future__ import annotations

from graphprune.rules.base import Call, Rule, Ties

_BODIES = "used inside the body of {op}, which is not looked into"
_FOUND = "how much {op} finds depends on the values"
_RANDOM = "{op} draws every number from one stream, so fewer numbers would be other numbers"
_LOSS = "{op} is a loss over all classes"
_CONTAINER = "{op} keeps whole tensors in a container"
_TEXT = "{op} works on text"
_SIGNAL = "{op} is of the frequencies of a signal"

_REASONS = {
    _BODIES: ["If", "Loop", "Scan", "SequenceMap"],
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


RULES = {op: Rule(_nothing, why=why.format(op=op)) for why, ops in _REASONS.items() for op in ops}
