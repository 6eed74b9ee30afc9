"""Bodies of If, Loop and Scan, cut with what is around them; and operators that nothing passes through, and why."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import Operand, control
from tests.law import Case, between, case, check, net

AROUND = "6 e[0] d[1]"
# Each body makes ``u`` from ``t`` through an operator that pins; the convolutions e and d beside it are cut.
BESIDE = "\nf = Conv(x, e)\ng = Conv(f, d)"
IMAGE = "float[1,6,8,8]"
ROW = "float[2,6]"


def either(then: str, otherwise: str, out: str = IMAGE) -> str:
    """``h`` by one of two branches, which make ``m`` and ``n``."""
    return (
        f"h = If(q) <then_branch = a () => ({out} m) {{ {then} }}, else_branch = b () => ({out} n) {{ {otherwise} }}>"
    )


def repeated(body: str, carried: str = IMAGE, also: str = "", first: str = "t") -> str:
    """``h`` by a loop whose body makes ``r`` from ``s``; ``also`` declares what it stacks, which comes out as ``k``."""
    results = "h, k" if also else "h"
    return (
        f"{results} = Loop(n, , {first}) <body = step (int64 i, bool on, {carried} s) => "
        f"(bool again, {carried} r{', ' + also if also else ''}) {{ again = Identity(on)\n{body} }}>"
    )


def along(body: str, given: str, made: str, attributes: str = "num_scan_inputs=1", reads: str = "t") -> str:
    """A scan over ``reads``."""
    return f"h, k = Scan<{attributes}, body = step ({given}) => ({made}) {{ {body} }}>({reads})"


TRUE, FALSE, THREE = np.array(True), np.array(False), np.array(3)
RNN = "f = MatMul(v, wx)\ng = MatMul(s, wh)\nfg = Add(f, g)\nr = Tanh(fg)\no = Identity(r)"
STATES = {"z": np.full((2, 6), 0.5, np.float32), "wx": (3, 6), "wh": (6, 6), "b": (6, 4)}


def pinning(op: str, body: str, **options: object) -> Case:
    return between(op, body + BESIDE, AROUND, e=(6, 3, 1, 1), d=(2, 6, 1, 1), outputs="y g", **options)


BODIES = [
    between("If, passing", either("m = Relu(t)", "n = Neg(t)") + "\nu = Identity(h)", q=TRUE),
    between("If, the other branch", either("m = Relu(t)", "n = Neg(t)") + "\nu = Identity(h)", q=FALSE),
    between(
        "If, a layer in one branch",
        either("m0 = Conv(t, w)\nm1 = Relu(m0)\nm = Conv(m1, v)", "n = Identity(t)") + "\nu = Tanh(h)",
        "6 a[0] c[0] w[1] v[0] b[1]",
        "5 w[0] v[1]",
        w=(5, 6, 1, 1),
        v=(6, 5, 1, 1),
        q=TRUE,
    ),
    between(
        "If, a layer in each branch",
        either("m = Conv(t, w)", "n0 = Conv(t, v)\nn = Relu(n0)", "float[1,4,8,8]") + "\nu = Identity(h)",
        "6 a[0] c[0] w[1] v[1]",
        "4 w[0] v[0] b[1]",
        w=(4, 6, 1, 1),
        v=(4, 6, 1, 1),
        b=(4, 4, 1, 1),
        q=FALSE,
    ),
    between(
        "If, branches with the same names",
        either("o = Relu(t)\nm = Abs(o)", "o = Neg(t)\nn = Exp(o)") + "\nu = Identity(h)",
        q=FALSE,
    ),
    between(
        "If in an If",
        either(
            "m = If(q) <then_branch = c () => (float[1,6,8,8] mm) { mm = Mul(t, k) }, "
            "else_branch = d () => (float[1,6,8,8] mn) { mn = Neg(t) }>",
            "n = Abs(t)",
        )
        + "\nu = Identity(h)",
        "6 a[0] c[0] k[0] b[1]",
        k=(6, 1, 1),
        q=TRUE,
    ),
    between(
        "If, silent in both branches",
        either("m = Relu(t)", "n = Tanh(t)") + "\nu = ReduceSum<axes=[1]>(h)\ny = Conv(u, f)",
        "6 a[0] c[0]",
        f=(2, 1, 1, 1),
        bare=True,
        q=TRUE,
        opset=11,
    ),
    between(
        "If, not silent in one branch",
        either("m = Relu(t)", "n = Exp(t)") + "\nu = ReduceSum<axes=[1]>(h)\ny = Conv(u, f)",
        f=(2, 1, 1, 1),
        bare=True,
        pinned=True,
        q=TRUE,
        opset=11,
    ),
    between(
        "If, sizes in a branch",
        either("m0 = Reshape(t, s)\nm1 = Softmax<axis=-1>(m0)\nm = Reshape(m1, z)", "n = Identity(t)")
        + "\nu = Identity(h)",
        s=np.array([1, 6, 64]),
        z=np.array([1, 6, 8, 8]),
        q=TRUE,
    ),
    between(
        "If, its own sizes in a branch",
        either(
            "s = Constant<value = int64[3] {1, 6, 64}>()\nz = Constant<value = int64[4] {1, 6, 8, 8}>()\n"
            "m0 = Reshape(t, s)\nm1 = Softmax<axis=-1>(m0)\nm = Reshape(m1, z)",
            "n = Identity(t)",
        )
        + "\nu = Identity(h)",
        q=TRUE,
    ),
    between(
        "If, a part picked in a branch",
        either(
            "i = Constant<value = int64[6] {5, 3, 1, 0, 2, 4}>()\nm0 = Gather<axis=1>(t, i)\nm = Relu(m0)",
            "n = Gather<axis=1>(t, o)",
        )
        + "\nu = Identity(h)",
        o=np.array([5, 3, 1, 0, 2, 4]),
        q=TRUE,
    ),
    between("Loop, passing", repeated("r = Tanh(s)") + "\nu = Identity(h)", n=THREE, known=f"{IMAGE} h"),
    between(
        "Loop, a residual layer",
        repeated("l = Conv(s, w)\nk = Relu(l)\nj = Conv(k, v)\nr = Add(s, j)") + "\nu = Identity(h)",
        "6 a[0] c[0] w[1] v[0] b[1]",
        "5 w[0] v[1]",
        w=(5, 6, 1, 1),
        v=(6, 5, 1, 1),
        n=THREE,
        known=f"{IMAGE} h",
    ),
    between(
        "Loop, every run is kept",
        repeated("r = Tanh(s)\no = Conv(r, w)", also="float[1,5,8,8] o")
        + "\ni = ReduceMean<axes=[0],keepdims=0>(k)\nj = Conv(i, v)\nu = Add(h, j)",
        "6 a[0] c[0] w[1] v[0] b[1]",
        "5 w[0] v[1]",
        w=(5, 6, 1, 1),
        v=(6, 5, 1, 1),
        n=THREE,
        known=f"{IMAGE} h, float[3,1,5,8,8] k",
    ),
    between(
        "Loop, reading what lies around",
        "o = Abs(t)\n" + repeated("l = Mul(s, t)\nr = Tanh(l)", first="o") + "\nu = Identity(h)",
        n=THREE,
        known=f"{IMAGE} h",
    ),
    between(
        "Loop, channels that change places",
        repeated("r = Gather<axis=1>(s, p)") + "\nu = Identity(h)",
        "3 a[0]*2 c[0]*2 b[1]*2",
        p=np.array([1, 0, 3, 2, 5, 4]),
        n=THREE,
        known=f"{IMAGE} h",
    ),
    case(
        "Scan, a recurrent layer",
        along(RNN, f"{ROW} s, float[2,3] v", f"{ROW} r, {ROW} o", reads="z, x") + "\ny = MatMul(k, b)",
        "6 z[1] wx[1] wh[0] wh[1] b[0]",
        inputs="float[5,2,3] x",
        **STATES,
    ),
    case(
        "Scan, along other axes",
        along(
            RNN,
            f"{ROW} s, float[2,3] v",
            f"{ROW} r, {ROW} o",
            "num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[-1]",
            reads="z, x",
        )
        + "\ni = Transpose<perm=[2,0,1]>(k)\ny = MatMul(i, b)",
        "6 z[1] wx[1] wh[0] wh[1] b[0]",
        inputs="float[2,5,3] x",
        **STATES,
    ),
    case(
        "Scan, over channels made outside",
        "t = MatMul(x, a)\n"
        + along("r = Add(s, v)\no = Relu(r)", f"{ROW} s, {ROW} v", f"{ROW} r, {ROW} o", reads="z, t")
        + "\ni = MatMul(h, b)\nj = MatMul(k, d)\ny = Add(i, j)",
        "6 a[1] z[1] b[0] d[0]",
        inputs="float[5,2,3] x",
        a=(3, 6),
        z=np.full((2, 6), 0.5, np.float32),
        b=(6, 4),
        d=(6, 4),
    ),
    between(
        "Scan, along the channels",
        "h = Scan<num_scan_inputs=1, body = step (float[6,8,8] s) => (float[6,8,8] r) { r = Relu(s) }, "
        "scan_input_axes=[0], scan_output_axes=[0]>(t)\nu = Identity(h)",
    ),
]
CASES = [
    *BODIES,
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


def test_what_is_stacked_has_one_axis_more() -> None:
    one, all_of_them = Operand("one", (2, 6)), Operand("all", (5, 2, 6))
    assert [(tie.a.axis, tie.b.axis) for tie in control._stacked(one, all_of_them, 0)] == [(0, 1), (1, 2)]
    for pair in ((None, all_of_them), (one, None), (one, one), (None, None)):
        assert not [*control._stacked(*pair, 0)]


def test_what_is_carried_is_one_tensor_where_all_of_it_has_a_shape() -> None:
    start, before, after, end = (Operand(name, (2, 6)) for name in "sbae")
    for given, ties in (
        ((start, before, after, end), ["s-b", "b-a", "a-e"]),
        ((start, before, after, None), ["s-b", "b-a"]),
        ((None, before, after, end), []),
        ((start, None, after, end), []),
        ((start, before, None, end), []),
    ):
        said = control._carried(*((operand,) for operand in given))
        assert [f"{tie.a.tensor}-{tie.b.tensor}" for tie in said if tie.a.axis == 1] == ties


@pytest.mark.parametrize("op", sorted(control.PINNING))
def test_reasons_are_plain_sentences(op: str) -> None:
    rule = control.RULES[op]
    assert list(rule.ties(None)) == []  # type: ignore[arg-type]
    assert rule.why
    assert "{" not in rule.why


def test_pins_say_why() -> None:
    body = "t = Conv(x, a)\nh = Scan<num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], body = step "
    body += "(float[1,8,8] s) => (float[1,8,8] r) { r = Relu(s) }>(t)\ny = Conv(h, b)"
    model = load(net(body, a=(6, 3, 1, 1), b=(4, 6, 1, 1)))
    why = {str(p.dim): p.why for p in analyse(model).pinned}
    assert why["b[1]"] == "Scan runs along it, or makes it of a size that depends on the values"
