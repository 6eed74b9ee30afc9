"""The law on tiny nets with operators that onnxruntime fuses out of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from graphprune.rules import RULES, Call, Dim, Operand, Pin, Routing, Tie
from tests.law import Case, case, check, draw


def fused(name: str, body: str, *groups: str, rank: int = 3, **options: object) -> Case:
    """A case with operators of com.microsoft, whose results onnx has no shapes for; y has ``rank`` axes."""
    plain = case(name, "y = Identity(x)", *groups, inputs=options.pop("inputs"))  # type: ignore[call-overload]
    model = plain.model
    text = f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> net (float[1] x) => (float y) {{ {body} }}'
    nodes = onnx.parser.parse_model(text).graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    rng = np.random.default_rng(0)
    for key, weight in options.items():
        values = weight if isinstance(weight, np.ndarray) else draw(rng, weight)  # type: ignore[arg-type]
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, key))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", 1, [None] * rank))
    return plain


ROWS = {"inputs": "float[2,5,3] x", "a": (3, 6), "b": (6, 4)}
NORMS = [
    fused(
        "SkipLayerNormalization, its sum handed on",
        "t = MatMul(x, a)\nr = MatMul(x, d)\n"
        "u, , , z = com.microsoft.SkipLayerNormalization<epsilon=0.1>(t, r, s, o, e)\n"
        "w = Add(u, z)\ny = MatMul(w, b)",
        "6 a[1] d[1] s[0] o[0] e[0] b[0]",
        **{**ROWS, "d": (3, 6), "s": (6,), "o": (6,), "e": (6,)},
    ),
    fused(
        "SkipLayerNormalization without a bias",
        "t = MatMul(x, a)\nr = MatMul(x, d)\nu = com.microsoft.SkipLayerNormalization(t, r, s)\ny = MatMul(u, b)",
        "6 a[1] d[1] s[0] b[0]",
        **{**ROWS, "d": (3, 6), "s": (6,)},
    ),
    fused(
        "SkipSimplifiedLayerNormalization, its sum handed on",
        "t = MatMul(x, a)\nr = MatMul(x, d)\n"
        "u, , , z = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.1>(t, r, s, e)\n"
        "w = Add(u, z)\ny = MatMul(w, b)",
        "6 a[1] d[1] s[0] e[0] b[0]",
        **{**ROWS, "d": (3, 6), "s": (6,), "e": (6,)},
    ),
    fused(
        "SimplifiedLayerNormalization, one scale for two of them",
        "t = MatMul(x, a)\nr = SimplifiedLayerNormalization<epsilon=0.1>(t, s)\n"
        "q = Mul(r, t)\nu = SimplifiedLayerNormalization(q, s)\ny = MatMul(u, b)",
        "6 a[1] s[0] b[0]",
        **{**ROWS, "s": (6,)},
    ),
]
NORMS.append(
    fused(
        "SkipLayerNormalization and SkipSimplifiedLayerNormalization behind words: what they make is silent",
        "u, m = com.microsoft.EmbedLayerNormalization(x, , word, place, , s, o)\n"
        "t = MatMul(u, a)\nv, , , z = com.microsoft.SkipLayerNormalization(u, t, s, o, o)\n"
        "r = MatMul(v, a)\nw, , , q = com.microsoft.SkipSimplifiedLayerNormalization(z, r, e)\n"
        "l = com.microsoft.SkipLayerNormalization(w, q, s, o)\ny = MatMul(l, b)",
        "6 word[1] place[1] s[0] o[0] a[0] a[1] e[0] b[0]",
        inputs="int32[2,5] x",
        word=(9, 6),
        place=(8, 6),
        s=(6,),
        o=(6,),
        e=(6,),
        a=(6, 6),
        b=(6, 4),
    )
)
LOUD = "t0 = MatMul(x, a)\nt = Exp(t0)\nr = MatMul(x, d)\n"  # what is not zero where its channels are
SKIPPED = {**ROWS, "d": (3, 6), "s": (6,), "o": (6,)}
NORMS += [
    fused(
        "SkipLayerNormalization of what is not silent",
        LOUD + "u = com.microsoft.SkipLayerNormalization(t, r, s, o)\ny = MatMul(u, b)",
        **SKIPPED,
    ),
    fused(
        "SkipLayerNormalization of a branch that is not silent",
        LOUD + "u = com.microsoft.SkipLayerNormalization(r, t, s, o)\ny = MatMul(u, b)",
        **SKIPPED,
    ),
    fused(
        "SkipSimplifiedLayerNormalization of what is not silent",
        LOUD + "u = com.microsoft.SkipSimplifiedLayerNormalization(t, r, s)\ny = MatMul(u, b)",
        **SKIPPED,
    ),
    fused(
        "SkipSimplifiedLayerNormalization of a branch that is not silent",
        LOUD + "u = com.microsoft.SkipSimplifiedLayerNormalization(r, t, s)\ny = MatMul(u, b)",
        **SKIPPED,
    ),
    *(
        fused(
            f"{op} with a bias that is not silent",
            "t = MatMul(x, a)\nr = MatMul(x, d)\nf = Exp(e)\n"
            f"u = com.microsoft.{op}(t, r, {parameters}, f)\ny = MatMul(u, b)",
            **{**SKIPPED, "e": (6,)},
        )
        for op, parameters in (("SkipLayerNormalization", "s, o"), ("SkipSimplifiedLayerNormalization", "s"))
    ),
    fused(
        "SkipLayerNormalization whose offset is left empty, and its mean",
        "t = MatMul(x, a)\nr = MatMul(x, d)\nu = com.microsoft.SkipLayerNormalization(t, r, s, , e)\n"
        "m = ReduceMean<axes=[-1]>(u)\nw = Add(u, m)\ny = MatMul(w, b)",
        "6 a[1] d[1] s[0] e[0] b[0]",
        **{**ROWS, "d": (3, 6), "s": (6,), "e": (6,)},
    ),
    fused(
        "SkipLayerNormalization with a scale that is computed",
        "t = MatMul(x, a)\nr = MatMul(x, d)\nk = ReduceMax<axes=[0,1], keepdims=0>(r)\n"
        "u = com.microsoft.SkipLayerNormalization(t, r, k)\ny = MatMul(u, b)",
        **SKIPPED,
    ),
]
for outputs in (3, 4):  # of which only the first has a name
    NORMS.append(
        fused(
            f"SkipLayerNormalization with {outputs} outputs, the others left empty",
            "t = MatMul(x, a)\nr = MatMul(x, d)\nu = com.microsoft.SkipLayerNormalization(t, r, s)\ny = MatMul(u, b)",
            "6 a[1] d[1] s[0] b[0]",
            **{**ROWS, "d": (3, 6), "s": (6,)},
        )
    )
    NORMS[-1].model.graph.node[2].output.extend([""] * (outputs - 1))
_TABLES = {"word": (9, 6), "place": (8, 6), "part": (2, 6), "s": (6,), "o": (6,), "b": (6, 4)}
EMBEDDED = [
    fused(
        "EmbedLayerNormalization of words and places",
        "u, m = com.microsoft.EmbedLayerNormalization<epsilon=0.1>(x, , word, place, , s, o)\ny = MatMul(u, b)",
        "6 word[1] place[1] s[0] o[0] b[0]",
        inputs="int32[2,5] x",
        **{key: shape for key, shape in _TABLES.items() if key != "part"},
    ),
    fused(
        "EmbedLayerNormalization, its sum handed on",
        "u, m, z = com.microsoft.EmbedLayerNormalization(x, p, word, place, part, s, o, there)\nw = Add(u, z)\n"
        "k = ReduceMean<axes=[-1]>(w)\nv = Add(w, k)\ny = MatMul(v, b)",
        "6 word[1] place[1] part[1] s[0] o[0] b[0]",
        inputs="int32[2,5] x",
        p=np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]], np.int32),
        there=np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32),
        **_TABLES,
    ),
    fused(
        "EmbedLayerNormalization of words that are not silent",
        "w = Exp(word)\nu, m = com.microsoft.EmbedLayerNormalization(x, , w, place, , s, o)\ny = MatMul(u, b)",
        inputs="int32[2,5] x",
        **{key: shape for key, shape in _TABLES.items() if key != "part"},
    ),
]
PRODUCTS = [
    fused(
        "FusedMatMul, both transposed",
        "t = com.microsoft.FusedMatMul<transA=1, transB=1, alpha=0.5>(x, a)\ny = MatMul(t, b)",
        "6 a[0] b[0]",
        inputs="float[2,3,5] x",
        a=(6, 3),
        b=(6, 4),
    ),
    fused(
        "FusedMatMul of two computed tensors",
        "t = MatMul(x, a)\nr = MatMul(x, d)\ny = com.microsoft.FusedMatMul<transB=1>(t, r)",
        "6 a[1] d[1]",
        inputs="float[2,5,3] x",
        a=(3, 6),
        d=(3, 6),
    ),
    fused(
        "FusedMatMul of two that are not silent",
        "t0 = MatMul(x, a)\nt = Exp(t0)\nr0 = MatMul(x, d)\nr = Exp(r0)\ny = com.microsoft.FusedMatMul<transB=1>(t, r)",
        inputs="float[2,5,3] x",
        a=(3, 6),
        d=(3, 6),
    ),
    fused(
        "FusedMatMul, rows that are channels",
        "u = com.microsoft.FusedMatMul(a, x)\ny = MatMul(b, u)",
        "6 a[0] b[1]",
        inputs="float[3,5] x",
        a=(6, 3),
        b=(4, 6),
        rank=2,
    ),
    fused(
        "the mean of what onnx knows no type of",
        "t = MatMul(x, a)\nr = com.microsoft.QuickGelu(t)\nm = ReduceMean<axes=[-1]>(r)\ny = MatMul(m, b)",
        "6 a[1]",
        inputs="float[2,5,3] x",
        a=(3, 6),
        b=(1, 4),
    ),
    *(
        fused(
            f"FusedMatMul, {attribute}",
            f"t = MatMul(x, a)\nr = com.microsoft.FusedMatMul<{attribute}=1>(t, d)\ny = Abs(r)",
            inputs="float[4,4,3] x",
            a=(3, 6),
            d=(4, 6, 5) if attribute == "transBatchA" else (6, 4, 5),
        )
        for attribute in ("transBatchA", "transBatchB")
    ),
    *(
        fused(
            f"FusedConv, {activation} of channels that are added up",
            f't = com.microsoft.FusedConv<activation="{activation}"{more}>(x, a, c)\n'
            "u = ReduceSum(t, one)\ny = Conv(u, b)",
            *(["6 a[0] c[0]"] if silent else []),
            inputs="float[1,3,8,8] x",
            a=(6, 3, 1, 1),
            c=(6,),
            b=(4, 1, 1, 1),
            one=np.array([1]),
            rank=4,
        )
        for activation, more, silent in (
            ("Relu", "", True),
            ("LeakyRelu", ", activation_params=[0.1]", True),
            ("Tanh", "", True),
            ("HardSwish", "", True),
            ("Sigmoid", "", False),
        )
    ),
    *(
        fused(
            f"FusedConv, something {how} added before the activation, and channels that are added up",
            f"q = Conv(x, d)\nr = {op}(q)\n"
            't = com.microsoft.FusedConv<activation="Relu">(x, a, c, r)\nu = ReduceSum(t, one)\ny = Conv(u, b)',
            *groups,
            inputs="float[1,3,8,8] x",
            a=(6, 3, 1, 1),
            c=(6,),
            d=(6, 3, 1, 1),
            b=(4, 1, 1, 1),
            one=np.array([1]),
            rank=4,
        )
        for how, op, groups in (("silent", "Tanh", ["6 d[0] a[0] c[0]"]), ("that is not silent", "Exp", []))
    ),
    *(
        fused(
            f"FusedGemm, {activation} of columns that are added up",
            f't = com.microsoft.FusedGemm<activation="{activation}">(x, a, c)\nu = ReduceSum(t, one)\ny = MatMul(u, b)',
            *groups,
            inputs="float[5,3] x",
            a=(3, 6),
            c=(6,),
            b=(1, 4),
            one=np.array([1]),
            rank=2,
        )
        for activation, groups in (("Relu", ["6 a[1] c[0]"]), ("Sigmoid", []))
    ),
    fused(
        "FusedMatMul of stacks, one of them of one matrix",
        "t = MatMul(x, a)\nr = com.microsoft.FusedMatMul(t, d)\nu = com.microsoft.FusedMatMul<transA=1>(r, e)\n"
        "p = Transpose<perm=[1,2,0]>(u)\ny = MatMul(p, b)",
        "6 a[1] d[1]",
        "4 d[0] e[0] b[0]",
        inputs="float[1,5,3] x",
        a=(3, 6),
        d=(4, 6, 7),
        e=(4, 5, 2),
        b=(4, 3),
    ),
    fused(
        "FusedGemm",
        't = com.microsoft.FusedGemm<activation="Relu", transB=1>(x, a, c)\ny = MatMul(t, b)',
        "6 a[0] c[0] b[0]",
        inputs="float[5,3] x",
        a=(6, 3),
        c=(6,),
        b=(6, 4),
        rank=2,
    ),
    fused(
        "FusedConv, something added before the activation",
        'r = Conv(x, d)\nt = com.microsoft.FusedConv<activation="Relu">(x, a, c, r)\ny = Conv(t, b)',
        "6 d[0] a[0] c[0] b[1]",
        inputs="float[1,3,8,8] x",
        a=(6, 3, 1, 1),
        c=(6,),
        d=(6, 3, 1, 1),
        b=(4, 6, 1, 1),
        rank=4,
    ),
]
ELEMENTWISE = [
    *(
        fused(
            op,
            f"t = MatMul(x, a)\nu = com.microsoft.{op}(t, c)\ny = MatMul(u, b)",
            "6 a[1] c[0] b[0]",
            **{**ROWS, "c": (6,)},
        )
        for op in ("BiasGelu", "FastGelu")
    ),
    *(
        fused(op, f"t = MatMul(x, a)\nu = com.microsoft.{op}(t)\ny = MatMul(u, b)", "6 a[1] b[0]", **ROWS)
        for op in ("Gelu", "QuickGelu")
    ),
]
EXPERTS = [
    fused(
        "MoE: neurons go in every expert",
        "t = MatMul(x, a)\nr = MatMul(t, g)\n"
        'u = com.microsoft.MoE<k=3, activation_type="gelu">(t, r, up, ub, down, db)\n'
        "y = MatMul(u, b)",
        "8 a[1] g[0] up[2]",
        "4 g[1] up[0] ub[0] down[0] db[0]",
        "16 up[1] ub[1] down[2]",
        "8 down[1] db[1] b[0]",
        inputs="float[5,3] x",
        a=(3, 8),
        g=(8, 4),
        up=(4, 16, 8),
        ub=(4, 16),
        down=(4, 8, 16),
        db=(4, 8),
        b=(8, 4),
        rank=2,
    ),
    fused(
        "MoE of sequences, one expert for each position unless said otherwise",
        "t = MatMul(x, a)\nr0 = MatMul(t, g)\nr = Reshape(r0, rows)\n"
        'u = com.microsoft.MoE<activation_type="gelu">(t, r, up, ub, down, db)\ny = MatMul(u, b)',
        "8 a[1] g[0] up[2]",
        "4 g[1] up[0] ub[0] down[0] db[0]",
        "16 up[1] ub[1] down[2]",
        "8 down[1] db[1] b[0]",
        inputs="float[2,5,3] x",
        a=(3, 8),
        g=(8, 4),
        rows=np.array([10, -1]),
        up=(4, 16, 8),
        ub=(4, 16),
        down=(4, 8, 16),
        db=(4, 8),
        b=(8, 4),
    ),
]
CASES = [*NORMS, *EMBEDDED, *PRODUCTS, *ELEMENTWISE, *EXPERTS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


def test_gates_of_experts_go_like_what_they_gate_and_a_sparse_mixer_keeps_experts() -> None:
    """Called, since onnxruntime has no kernel for either on this processor that a net could be run with."""
    shapes = {"x": (5, 8), "r": (5, 4), "up": (4, 16, 8), "ub": (4, 16), "down": (4, 8, 16), "db": (4, 8)}
    shapes |= {"gate": (4, 16, 8), "gb": (4, 16)}
    operands = tuple(Operand(name, shape) for name, shape in shapes.items())
    call = Call("com.microsoft.MoE", "experts", operands, (Operand("y", (5, 8)),), {"activation_type": b"silu"}, 17)
    said = [said for said in RULES["com.microsoft.MoE"].ties(call) if isinstance(said, Tie)]
    told = {(str(tie.a), str(tie.b), tie.summed) for tie in said}
    assert told >= {("x[1]", "up[2]", True), ("up[1]", "down[2]", True)}
    assert told >= {("x[1]", "gate[2]", True), ("gate[1]", "down[2]", False), ("gb[1]", "down[2]", False)}
    assert told >= {(f"{name}[0]", "r[1]", False) for name in (*shapes,)[2:]}
    packed = replace(call, attrs={"activation_type": b"swiglu"})
    assert not any(isinstance(said, Tie) and said.b == Dim("down", 2) for said in RULES[call.op].ties(packed))
    sparse = replace(call, attrs={"use_sparse_mixer": 1})
    assert [said.dim for said in RULES[call.op].ties(sparse) if isinstance(said, Pin)] == [Dim("r", 1)]
    assert RULES[call.op].routes(sparse) is None
    assert RULES[call.op].routes(call) == Routing(1, 1, 1, clipped=True)
    assert RULES[call.op].routes(replace(call, attrs={"k": 3})) == Routing(1, 1, 3, clipped=True)
    assert RULES[call.op].macs(call) == 5 * 3 * 8 * 16
