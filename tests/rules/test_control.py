"""Operators that nothing passes through, each with its reason; what is around them goes all the same."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import control
from tests.law import Case, between, check, net

AROUND = "6 e[0] d[1]"
# Each body makes ``u`` from ``t`` through an operator that pins; the convolutions e and d beside it are cut.
BESIDE = "\nf = Conv(x, e)\ng = Conv(f, d)"
IMAGE = "float[1,6,8,8]"
BRANCHES = (
    f"h = If(q) <then_branch = then () => ({IMAGE} m) {{ m = Relu(t) }}, "
    f"else_branch = otherwise () => ({IMAGE} n) {{ n = Neg(t) }}>"
)
LOOP = (
    f"h = Loop(n, , t) <body = step (int64 i, bool on, {IMAGE} s) => (bool again, {IMAGE} r) "
    "{ again = Identity(on)  r = Relu(s) }>"
)
SCAN = "h = Scan<num_scan_inputs=1, body = step (float[6,8,8] s) => (float[6,8,8] r) { r = Relu(s) }>(t)"


def pinning(op: str, body: str, **options: object) -> Case:
    return between(op, body + BESIDE, AROUND, e=(6, 3, 1, 1), d=(2, 6, 1, 1), outputs="y g", **options)


CASES = [
    pinning("If", f"{BRANCHES}\nu = Identity(h)", q=np.array(True)),
    pinning("Loop", f"{LOOP}\nu = Identity(h)", n=np.array(3), known=f"{IMAGE} h"),
    pinning("Scan", f"{SCAN}\nu = Identity(h)"),
    pinning("EyeLike", "s = ReduceMax<axes=[0,1], keepdims=0>(t)\nh = EyeLike(s)\nu = Add(t, h)", matters=True),
    pinning("SequenceAt", "s = SplitToSequence<axis=1>(t)\nh = SequenceAt(s, n)\nu = Add(t, h)", n=np.array(0)),
    pinning("Size", "h = Size(t)\nf1 = Cast<to=1>(h)\nu = Add(t, f1)"),
    pinning("MeanVarianceNormalization", "u = MeanVarianceNormalization(t)", opset=9),
    pinning(
        "SoftmaxCrossEntropyLoss", "l = SoftmaxCrossEntropyLoss(t, k)\nu = Add(t, l)", k=np.zeros((1, 8, 8), np.int64)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("op", control.RULES)
def test_reasons_are_plain_sentences(op: str) -> None:
    rule = control.RULES[op]
    assert list(rule.ties(None)) == []  # type: ignore[arg-type]
    assert rule.why
    assert "{" not in rule.why


def test_pins_say_why() -> None:
    body = f"t = Conv(x, a)\n{SCAN}\ny = Conv(h, b)"
    model = load(net(body, a=(6, 3, 1, 1), b=(4, 6, 1, 1)))
    why = {str(p.dim): p.why for p in analyse(model).pinned}
    assert why["b[1]"] == "used inside the body of Scan, which is not looked into"
