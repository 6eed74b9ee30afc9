"""The law on tiny nets with normalisations."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import Call, Operand
from graphprune.rules.normalization import _type
from tests.law import Case, among, between, case, check, halves, net

POSITIVE = np.linspace(0.5, 1.5, 6, dtype=np.float32)
BATCHNORM = {"s": (6,), "o": (6,), "m": (6,), "v": POSITIVE}


def _over(op: str, axis: int, opset: int, pinned: bool) -> Case:
    return between(f"{op} over axis {axis}, opset {opset}", f"u = {op}<axis={axis}>(t)", opset=opset, pinned=pinned)


CASES = [
    between(
        "InstanceNormalization of two images",
        "u = InstanceNormalization(t, s, o)",
        "6 a[0] c[0] s[0] o[0] b[1]",
        inputs="float[2,3,8,8] x",
        s=(6,),
        o=(6,),
    ),
    between(
        "BatchNormalization, averaged",
        "n = BatchNormalization(t, s, o, m, v)\nu = ReduceMean<axes=[1]>(n)",
        "6 a[0] c[0] s[0] o[0] m[0] v[0]",
        b=(4, 1, 1, 1),
        **BATCHNORM,
    ),
    between(
        "BatchNormalization with an offset that is not silent, averaged",
        "f = Exp(o)\nn = BatchNormalization(t, s, f, m, v)\nu = ReduceMean<axes=[1]>(n)",
        pinned=True,
        b=(4, 1, 1, 1),
        **BATCHNORM,
    ),
    between(
        "InstanceNormalization with a scale that is not silent, averaged",
        "f = Exp(s)\nn = InstanceNormalization(t, f, o)\nu = ReduceMean<axes=[1]>(n)",
        "6 a[0] c[0] s[0] o[0]",
        b=(4, 1, 1, 1),
        s=(6,),
        o=(6,),
    ),
    between(
        "InstanceNormalization with an offset that is not silent, averaged",
        "f = Exp(o)\nn = InstanceNormalization(t, s, f)\nu = ReduceMean<axes=[1]>(n)",
        pinned=True,
        b=(4, 1, 1, 1),
        s=(6,),
        o=(6,),
    ),
    between(
        "BatchNormalization",
        "u = BatchNormalization(t, s, o, m, v)",
        "6 a[0] c[0] s[0] o[0] m[0] v[0] b[1]",
        **BATCHNORM,
    ),
    between(
        "BatchNormalization before a Relu and a convolution, opset 9",
        "n = BatchNormalization<epsilon=0.001>(t, s, o, m, v)\nu = Relu(n)",
        "6 a[0] c[0] s[0] o[0] m[0] v[0] b[1]",
        opset=9,
        **BATCHNORM,
    ),
    between(
        "BatchNormalization without an epsilon: a silent variance would divide by zero",
        "u = BatchNormalization<epsilon=0.0>(t, s, o, m, v)",
        "6 a[0] c[0] s[0] o[0] m[0] v[0] b[1]",
        **BATCHNORM,
    ),
    case(
        "BatchNormalization of a matrix",
        "t = MatMul(x, a)\nu = BatchNormalization(t, s, o, m, v)\ny = MatMul(u, b)",
        "6 a[1] s[0] o[0] m[0] v[0] b[0]",
        inputs="float[5,3] x",
        a=(3, 6),
        b=(6, 4),
        **BATCHNORM,
    ),
    between(
        "InstanceNormalization", "u = InstanceNormalization(t, s, o)", "6 a[0] c[0] s[0] o[0] b[1]", s=(6,), o=(6,)
    ),
    between(
        "InstanceNormalization whose scale is its offset",
        "u = InstanceNormalization(t, s, s)",
        "6 a[0] c[0] s[0] b[1]",
        s=(6,),
    ),
    between(
        "GroupNormalization: whole groups go",
        "u = GroupNormalization<num_groups=3>(t, s, o)",
        "3 a[0]*2 c[0]*2 s[0]*2 o[0]*2 b[1]*2",
        inputs="float[2,3,9,5] x",
        known="float[2,6,9,5] u",  # to onnx's inference, which knows none for this operator
        opset=21,
        s=(6,),
        o=(6,),
    ),
    between(
        "GroupNormalization of one group",
        "u = GroupNormalization<num_groups=1>(t, s, o)",
        known="float[1,6,8,8] u",  # to onnx's inference, which knows none for this operator
        opset=21,
        s=(6,),
        o=(6,),
        pinned=True,
    ),
    between(
        "GroupNormalization of single channels",
        "u = GroupNormalization<num_groups=6>(t, s, o)",
        "6 a[0] c[0] s[0] o[0] b[1]",
        known="float[1,6,8,8] u",  # to onnx's inference, which knows none for this operator
        opset=21,
        s=(6,),
        o=(6,),
    ),
    between("LRN", "u = LRN<size=3>(t)", pinned=True),
    *(_over(op, 1, 17, pinned=op != "Softmax") for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(_over(op, 1, 13, pinned=op != "Softmax") for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(_over(op, 3, 17, pinned=False) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(_over(op, -2, 17, pinned=False) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(_over(op, 1, 11, pinned=True) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(_over(op, 2, 11, pinned=False) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(_over(op, 0, 11, pinned=True) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    among("Softmax, last axis unless said otherwise, whose positions share out what there is", "u = Softmax(t)"),
    among("Softmax, opset 11, of the last axis", "u = Softmax<axis=2>(t)", opset=11),
    between("Softmax, all but the first axis before opset 13", "u = Softmax(t)", opset=11, pinned=True),
    among("Softmax, opset 11, axis 1 of 3 covers the last", "u = Softmax<axis=1>(t)", opset=11, pinned=True),
    between("LayerNormalization of rows", "u = LayerNormalization<axis=3>(t, s, o)", s=(8,), o=(8,)),
    between(
        "LayerNormalization over the channels too",
        "u = LayerNormalization<axis=1>(t, s)",
        "6 a[0] c[0] s[0] b[1]",
        s=(6, 8, 8),
    ),
    among(
        "LayerNormalization, last axis unless said otherwise",
        "u = LayerNormalization<epsilon=0.1>(t, s, o)",
        "6 a[1] s[0] o[0] b[0]",
        s=(6,),
        o=(6,),
    ),
    among(
        "LayerNormalization of what is not silent",
        "v = Exp(t)\nu = LayerNormalization(v, s)",
        s=(6,),
        pinned=True,
    ),
    among(
        "LayerNormalization that hands on its mean",
        "u, m = LayerNormalization(t, s)\ny0 = Relu(m)",
        outputs="y y0",
        s=(6,),
        pinned=True,
    ),
    between("LayerNormalization with its statistics", "u, m, d = LayerNormalization<axis=-2>(t, s)", s=(8, 8)),
    between("RMSNormalization of images", "u = RMSNormalization<axis=2>(t, s)", s=(8, 8), opset=23),
    between("LpNormalization over the channels", "u = LpNormalization<axis=1, p=2>(t)"),
    between(
        "LpNormalization over channels that are not silent",
        "v = Exp(t)\nu = LpNormalization<axis=1, p=2>(v)",
        pinned=True,
    ),
    between(
        "RMSNormalization over the channels",
        "u = RMSNormalization<axis=1>(t, s)",
        "6 a[0] c[0] s[0] b[1]",
        s=(6, 8, 8),
        opset=23,
    ),
    among(
        "RMSNormalization, last axis unless said otherwise",
        "u = RMSNormalization<epsilon=0.1>(t, s)",
        "6 a[1] s[0] b[0]",
        s=(6,),
        opset=23,
    ),
    among(
        "RMSNormalization of what is not silent",
        "v = Exp(t)\nu = RMSNormalization(v, s)",
        s=(6,),
        opset=23,
        pinned=True,
    ),
    among(
        "RMSNormalization by a scale that is computed",
        "m = ReduceMax<keepdims=0>(t, i)\nu = RMSNormalization(t, m)",
        pinned=True,
        opset=23,
        i=np.array([0, 1]),
    ),
    among(
        "RMSNormalization spelled out",
        "q = Pow(t, k)\nm = ReduceMean<axes=[-1]>(q)\ne = Add(m, z)\nd = Sqrt(e)\nn = Div(t, d)\nu = Mul(n, s)",
        "6 a[1] s[0] b[0]",
        s=(6,),
        k=np.array(2, np.float32),
        z=np.array(0.1, np.float32),
    ),
    among(
        "LayerNormalization spelled out",
        "c = ReduceMean<axes=[-1]>(t)\nd = Sub(t, c)\nq = Mul(d, d)\n"
        "m = ReduceMean<axes=[-1]>(q)\ne = Add(m, z)\nf = Sqrt(e)\nu = Div(d, f)",
        pinned=True,
        z=np.array(0.1, np.float32),
    ),
    between("LpNormalization over another axis", "u = LpNormalization<axis=3, p=2>(t)"),
    between("LpNormalization over the last axis", "u = LpNormalization<p=1>(t)"),
    among(
        "LpNormalization of what is not silent, last axis unless said otherwise",
        "v = Exp(t)\nu = LpNormalization(v)",
        pinned=True,
    ),
    between(
        "BatchNormalization with a scale that is not silent, averaged",
        "f = Exp(s)\nn = BatchNormalization(t, f, o, m, v)\nu = ReduceMean<axes=[1]>(n)",
        pinned=True,
        b=(4, 1, 1, 1),
        **BATCHNORM,
    ),
    between(
        "InstanceNormalization of what is not silent with a scale that is not silent, averaged",
        "e = Exp(t)\nf = Exp(s)\nn = InstanceNormalization(e, f, o)\nu = ReduceMean<axes=[1]>(n)",
        pinned=True,
        b=(4, 1, 1, 1),
        s=(6,),
        o=(6,),
    ),
    *(
        among(
            f"LayerNormalization with {what} that is not silent, and its sum",
            f"f = Exp({given})\nn = LayerNormalization(t, {affine})\nq = ReduceSum<keepdims=1>(n, k)\nu = Add(n, q)",
            pinned=True,
            s=(6,),
            o=(6,),
            k=np.array([-1]),
        )
        for what, given, affine in (("a scale", "s", "f, o"), ("an offset", "o", "s, f"))
    ),
    among(
        "RMSNormalization, one scale for two of them",
        "n = RMSNormalization<epsilon=0.1>(t, s)\nr = Add(n, t)\nu = RMSNormalization(r, s)",
        "6 a[1] s[0] b[0]",
        s=(6,),
        opset=23,
    ),
    between(
        "RMSNormalization of images by a scale that is computed",
        "m = Exp(s)\nu = RMSNormalization<axis=2>(t, m)",
        s=(8, 8),
        opset=23,
    ),
]
EMPTY = among(
    "LayerNormalization whose offset is left empty", "u = LayerNormalization(t, s)", "6 a[1] s[0] b[0]", s=(6,)
)
EMPTY.model.graph.node[1].input.append("")  # which the text of a net cannot say
CASES.append(EMPTY)
# onnxruntime does not train it.
NOT_RUN = [
    between(
        "BatchNormalization in training",
        "u, p, q = BatchNormalization<training_mode=1>(t, s, o, m, v)",
        "6 a[0] c[0] s[0] o[0] m[0] v[0] b[1]",
        outputs="y p q",
        **BATCHNORM,
    )
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("node", "why"),
    [("LRN<size=3>(t)", "normalised by its neighbouring channels"), ("Hardmax<axis=1>(t)", "normalised over")],
)
def test_pins_say_why(node: str, why: str) -> None:
    dependencies = analyse(load(net(f"t = Conv(x, a)\nu = {node}\ny = Conv(u, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1))))
    assert {str(p.dim): p.why for p in dependencies.pinned}["b[1]"] == why


@pytest.mark.parametrize(
    ("norm", "opset", "inexact"),
    [
        ("u = LayerNormalization<axis=3>(t, s)", 17, False),
        ("u = RMSNormalization<axis=1>(t, s)", 23, False),
        ("u, m = LayerNormalization<axis=1>(t, s)\ny0 = Relu(m)", 17, True),
    ],
)
def test_a_norm_is_spelled_out_only_where_it_has_to_be(norm: str, opset: int, inexact: bool) -> None:
    weights = {"a": (6, 3, 1, 1), "b": (4, 6, 1, 1), "s": (8,) if "3" in norm else (6, 8, 8)}
    outputs = "y y0" if inexact else "y"
    model = load(net(f"t = Conv(x, a)\n{norm}\ny = Conv(u, b)", outputs=outputs, opset=opset, **weights))
    groups = analyse(model, inexact=inexact).groups
    small = cut(model, gone(groups, halves(groups)))
    assert small.constants["b"].shape == (4, 3, 1, 1)
    assert sorted(node.op for node in small.graph.nodes) == sorted(node.op for node in model.graph.nodes)


@pytest.mark.parametrize(
    ("of_x", "of_scale", "found"),
    [(None, np.float32, np.float32), (np.float16, np.float32, np.float16), (None, None, None)],
)
def test_numbers_are_of_the_type_of_the_scale_where_that_of_x_is_unknown(
    of_x: type | None, of_scale: type | None, found: type | None
) -> None:
    scale = None if of_scale is None else gs.Constant("s", np.ones(6, of_scale))
    x = Operand("x", (2, 6), dtype=None if of_x is None else np.dtype(of_x))
    call = Call("LayerNormalization", "n", (x, Operand("s", (6,), scale), Operand("o", (6,))), (x,), {}, 17)
    assert _type(call) == (None if found is None else np.dtype(found))
