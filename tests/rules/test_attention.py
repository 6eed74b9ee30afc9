"""The law on tiny nets with attention as one operator."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cost import CostModel
from graphprune.cut import cut, gone
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import RULES, Call, Operand, Tie
from tests.law import Case, case, check, halves, net
from tests.rules.test_fused import fused

WEIGHTS = {"inputs": "float[2,5,3] x", "q": (3, 12), "k": (3, 12), "v": (3, 12), "o": (12, 7)}
GROUPED = {**WEIGHTS, "k": (3, 6), "v": (3, 6)}
PROJECTED = "a = MatMul(x, q)\nb = MatMul(x, k)\nc = MatMul(x, v)\n"
HEADS = "4 q[1]*3 k[1]*3 v[1]*3 o[0]*3"
PAIRS = "2 q[1]*6 k[1]*3 v[1]*3 o[0]*6"
ANGLES = {"cos": np.cos(np.arange(16.0)).reshape(8, 2).astype(np.float32), "at": np.arange(10).reshape(2, 5) % 5}
ANGLES["sin"] = np.sin(np.arange(16.0)).reshape(8, 2).astype(np.float32)
SPLIT = "a4 = Reshape(a, s)\nat4 = Transpose<perm=[0,2,1,3]>(a4)\n"

STANDARD = [
    case(
        "Attention, heads counted by attributes",
        f"{PROJECTED}u = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c)\ny = MatMul(u, o)",
        HEADS,
        opset=23,
        **WEIGHTS,
    ),
    case(
        "Attention, keys shared by pairs of heads, causal",
        f"{PROJECTED}u = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1>(a, b, c)\ny = MatMul(u, o)",
        PAIRS,
        opset=23,
        **GROUPED,
    ),
    case(
        "Attention, heads as an axis",
        f"""{PROJECTED}
        a4 = Reshape(a, s)
        b4 = Reshape(b, s)
        c4 = Reshape(c, s)
        at4 = Transpose<perm=[0,2,1,3]>(a4)
        bt4 = Transpose<perm=[0,2,1,3]>(b4)
        ct4 = Transpose<perm=[0,2,1,3]>(c4)
        u4 = Attention(at4, bt4, ct4)
        u3 = Transpose<perm=[0,2,1,3]>(u4)
        u = Reshape(u3, f)
        y = MatMul(u, o)""",
        HEADS,
        opset=23,
        s=np.array([0, 0, 4, 3]),
        f=np.array([0, 0, 12]),
        **WEIGHTS,
    ),
]
ROTARY = [
    case(
        "RotaryEmbedding of heads side by side: they go whole",
        "a = MatMul(x, q)\nu = RotaryEmbedding<num_heads=3>(a, cos, sin, at)\ny = MatMul(u, o)",
        "3 q[1]*4 o[0]*4",
        opset=23,
        **{**ANGLES, "inputs": "float[2,5,3] x", "q": (3, 12), "o": (12, 7)},
    ),
    *(
        case(
            f"RotaryEmbedding of one head, interleaved {interleaved}: pairs",
            "a = MatMul(x, q)\na4 = Unsqueeze(a, n)\n"
            f"u4 = RotaryEmbedding<interleaved={interleaved}>(a4, cos, sin, at)\nu = Squeeze(u4, n)\ny = MatMul(u, o)",
            "2 q[1]*2 cos[1] sin[1] o[0]*2",
            opset=23,
            **{**ANGLES, "inputs": "float[2,5,3] x", "q": (3, 4), "o": (4, 7), "n": np.array([1])},
        )
        for interleaved in (0, 1)
    ),
    case(
        "RotaryEmbedding of one head that says how much of it turns",
        "a = MatMul(x, q)\na4 = Unsqueeze(a, n)\nu4 = RotaryEmbedding<rotary_embedding_dim=4, num_heads=1>"
        "(a4, cos, sin, at)\nu = Squeeze(u4, n)\ny = MatMul(u, o)",
        "2 q[1]*2 cos[1] sin[1] o[0]*2",
        opset=23,
        **{**ANGLES, "inputs": "float[2,5,3] x", "q": (3, 4), "o": (4, 7), "n": np.array([1])},
    ),
    case(
        "RotaryEmbedding of a part of a head",
        "a = MatMul(x, q)\na4 = Reshape(a, s)\nh = Transpose<perm=[0,2,1,3]>(a4)\n"
        "r = RotaryEmbedding<rotary_embedding_dim=4, num_heads=2>(h, cos, sin, at)\n"
        "b4 = Transpose<perm=[0,2,1,3]>(r)\nu = Reshape(b4, f)\ny = MatMul(u, o)",
        "2 q[1]*6 o[0]*6",
        opset=23,
        s=np.array([0, 0, 2, 6]),
        f=np.array([0, 0, 12]),
        **{**ANGLES, "inputs": "float[2,5,3] x", "q": (3, 12), "o": (12, 7)},
    ),
    case(
        "RotaryEmbedding of one head of three pairs, interleaved",
        "a = MatMul(x, q)\na4 = Unsqueeze(a, n)\nu4 = RotaryEmbedding<interleaved=1>(a4, cos, sin, at)\n"
        "u = Squeeze(u4, n)\ny = MatMul(u, o)",
        "3 q[1]*2 cos[1] sin[1] o[0]*2",
        opset=23,
        cos=np.cos(np.arange(24.0)).reshape(8, 3).astype(np.float32),
        sin=np.sin(np.arange(24.0)).reshape(8, 3).astype(np.float32),
        **{"at": ANGLES["at"], "inputs": "float[2,5,3] x", "q": (3, 6), "o": (6, 7), "n": np.array([1])},
    ),
    case(
        "RotaryEmbedding of a part of heads side by side",
        "a = MatMul(x, q)\nu = RotaryEmbedding<rotary_embedding_dim=4, num_heads=2>(a, cos, sin, at)\ny = MatMul(u, o)",
        "2 q[1]*6 o[0]*6",
        opset=23,
        **{**ANGLES, "inputs": "float[2,5,3] x", "q": (3, 12), "o": (12, 7)},
    ),
    case(
        "RotaryEmbedding by tables with an entry for every place",
        "a = MatMul(x, q)\nu = RotaryEmbedding<num_heads=3>(a, cos, sin)\ny = MatMul(u, o)",
        "3 q[1]*4 o[0]*4",
        opset=23,
        cos=np.cos(np.arange(20.0)).reshape(2, 5, 2).astype(np.float32),
        sin=np.sin(np.arange(20.0)).reshape(2, 5, 2).astype(np.float32),
        **{"inputs": "float[2,5,3] x", "q": (3, 12), "o": (12, 7)},
    ),
    case(
        "RotaryEmbedding of one head by tables with an entry for every place: pairs",
        "a = MatMul(x, q)\na4 = Unsqueeze(a, n)\nu4 = RotaryEmbedding(a4, cos, sin)\nu = Squeeze(u4, n)\n"
        "y = MatMul(u, o)",
        "2 q[1]*2 cos[2] sin[2] o[0]*2",
        opset=23,
        cos=np.cos(np.arange(20.0)).reshape(2, 5, 2).astype(np.float32),
        sin=np.sin(np.arange(20.0)).reshape(2, 5, 2).astype(np.float32),
        **{"inputs": "float[2,5,3] x", "q": (3, 4), "o": (4, 7), "n": np.array([1])},
    ),
    case(
        "RotaryEmbedding, its batch and its places by a weight",
        "s = Mul(x, w)\nt = Add(s, v)\na = MatMul(t, q)\nu = RotaryEmbedding<num_heads=3>(a, cos, sin, at)\n"
        "p = Transpose<perm=[1,2,0]>(u)\nr = MatMul(p, last)\nh = Transpose<perm=[1,2,0]>(r)\ny = MatMul(h, end)",
        "6 w[0] v[0] last[0]",
        "5 w[1] v[1] end[0]",
        opset=23,
        **{**ANGLES, "at": np.arange(30).reshape(6, 5) % 7, "inputs": "float[1,1,3] x", "q": (3, 12)},
        **{"w": (6, 5, 1), "v": (6, 5, 1), "last": (6, 4), "end": (5, 2)},
    ),
]
MICROSOFT = [
    fused(
        "Attention with its projections",
        "u = com.microsoft.Attention<num_heads=4>(x, q, bias)\ny = MatMul(u, o)",
        "4 q[1]*9 bias[0]*9 o[0]*3",
        **{**WEIGHTS, "q": (3, 36), "bias": (36,)},
    ),
    fused(
        "Attention of narrower keys than values",
        "u = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[4,4,12], unidirectional=1>(x, q, bias)\n"
        "y = MatMul(u, o)",
        "4 q[1]*5 bias[0]*5 o[0]*3",
        **{**WEIGHTS, "q": (3, 20), "bias": (20,)},
    ),
    fused(
        "MultiHeadAttention",
        f"{PROJECTED}u = com.microsoft.MultiHeadAttention<num_heads=4>(a, b, c, bias)\ny = MatMul(u, o)",
        "4 q[1]*3 k[1]*3 v[1]*3 bias[0]*9 o[0]*3",
        bias=(36,),
        **WEIGHTS,
    ),
    fused(
        "GroupQueryAttention",
        f"{PROJECTED}u, pk, pv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
        "(a, b, c, , , length, total)\ny = MatMul(u, o)",
        "2 q[1]*16 k[1]*8 v[1]*8 o[0]*16",
        length=np.array([4, 4], np.int32),
        total=np.array(5, np.int32),
        **{**WEIGHTS, "q": (3, 32), "k": (3, 16), "v": (3, 16), "o": (32, 7)},
    ),
    fused(
        "RotaryEmbedding of heads side by side, by onnxruntime",
        "a = MatMul(x, q)\nu = com.microsoft.RotaryEmbedding(a, at, cos, sin)\ny = MatMul(u, o)",
        "3 q[1]*4 o[0]*4",
        **{**ANGLES, "inputs": "float[2,5,3] x", "q": (3, 12), "o": (12, 7)},
    ),
    fused(
        "RotaryEmbedding of places counted from the first, by onnxruntime",
        "s = Mul(x, w)\na = MatMul(s, q)\nu = com.microsoft.RotaryEmbedding(a, at, cos, sin)\n"
        "t = Transpose<perm=[0,2,1]>(u)\ny = MatMul(t, end)",
        **{**ANGLES, "at": np.array([2]), "inputs": "float[2,1,3] x", "w": (5, 1), "q": (3, 12), "end": (5, 2)},
    ),
]
# Keys and values of three steps before, [batch, heads, steps, width], and what is made of them: [batch, steps, 7].
PAST = {"pk": (2, 4, 3, 3), "pv": (2, 4, 3, 3), "n": (12, 7), "m": (12, 7), "flat": np.array([0, 0, 12])}
PAST = {**PAST, "w": (6, 1, 1), "last": (6, 4), "scores": (1, 4, 5, 8)}
PRESENT = """
    kt = Transpose<perm=[0,2,1,3]>(key)
    vt = Transpose<perm=[0,2,1,3]>(value)
    kf = Reshape(kt, flat)
    vf = Reshape(vt, flat)
    ky = MatMul(kf, n)
    vy = MatMul(vf, m)
    uy = MatMul(u, o)
    y = Concat<axis=1>(uy, ky, vy)
"""
SIX = "s = Mul(x, w)\na = MatMul(s, q)\nb = MatMul(s, k)\nc = MatMul(s, v)\n"  # six of a batch, by a weight
BATCH = "t = Transpose<perm=[1,2,0]>(u)\ny = MatMul(t, last)"
ROW = {**WEIGHTS, "inputs": "float[1,5,3] x"}
BATCHES = """
    ut = Transpose<perm=[1,2,0]>(u)
    kt = Transpose<perm=[1,2,3,0]>(key)
    vt = Transpose<perm=[1,2,3,0]>(value)
    uy = MatMul(ut, last)
    ky = MatMul(kt, last)
    vy = MatMul(vt, last)
    uf = Reshape(uy, rows)
    kf = Reshape(ky, rows)
    vf = Reshape(vy, rows)
    y = Concat<axis=0>(uf, kf, vf)
"""
ROW = {**ROW, "rows": np.array([-1, 4])}
CACHES = [
    case(
        "Attention with keys and values from before, and scores by head",
        f"{PROJECTED}u, key, value, qk = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c, scores, pk, pv)\n"
        + PRESENT.replace("(uy, ky, vy)", "(uy, ky, vy, qy)").replace(
            "uy =", "qt = Transpose<perm=[0,2,3,1]>(qk)\nqx = MatMul(qt, r)\nqy = Reshape(qx, fr)\nuy ="
        ),
        "4 q[1]*3 k[1]*3 v[1]*3 scores[1] pk[1] pv[1] n[0]*3 m[0]*3 r[0] o[0]*3",
        opset=23,
        r=(4, 7),
        fr=np.array([2, 40, 7]),
        **{**WEIGHTS, **PAST, "w": (1,), "last": (1,)},
    ),
    case(
        "Attention, one of a batch by a weight",
        f"{SIX}u, key, value = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c, scores, pk, pv)\n{BATCHES}",
        "6 w[0] scores[0] pk[0] pv[0] last[0]",
        opset=23,
        **{**ROW, **PAST, "scores": (6, 1, 5, 8), "pk": (6, 4, 3, 3), "pv": (6, 4, 3, 3)},
    ),
    case(
        "Attention, one of a batch by a weight, each of a length of its own",
        f"{SIX}u = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c, , , , lengths)\n{BATCH}",
        "6 w[0] last[0]",
        opset=24,
        lengths=np.array([5, 4, 3, 2, 5, 4]),
        **{**ROW, **PAST},
    ),
    fused(
        "Attention with its projections, keys and values from before",
        "u, both = com.microsoft.Attention<num_heads=4>(x, q, bias, , past)\n"
        "key = Gather<axis=0>(both, zero)\nvalue = Gather<axis=0>(both, one)\n" + PRESENT,
        "4 q[1]*9 bias[0]*9 past[2] n[0]*3 m[0]*3 o[0]*3",
        past=(2, 2, 4, 3, 3),
        zero=np.array(0),
        one=np.array(1),
        **{**WEIGHTS, **PAST, "q": (3, 36), "bias": (36,)},
    ),
    fused(
        "Attention with its projections, scores by head",
        "u = com.microsoft.Attention<num_heads=4>(x, q, bias, , , scores)\ny = MatMul(u, o)",
        "4 q[1]*9 bias[0]*9 scores[1] o[0]*3",
        **{**WEIGHTS, "q": (3, 36), "bias": (36,), "scores": (1, 4, 5, 5)},
    ),
    fused(
        "Attention with its projections, one of a batch by a weight",
        "s = Mul(x, w)\nu, both = com.microsoft.Attention<num_heads=4>(s, q, bias, masked, past)\n"
        "key = Gather<axis=0>(both, zero)\nvalue = Gather<axis=0>(both, one)\n" + BATCHES,
        "6 w[0] past[1] last[0]",
        rank=2,
        past=(2, 6, 4, 3, 3),
        masked=np.array([[1] * 8] * 5 + [[1] * 4 + [0] * 4], np.int32),
        zero=np.array(0),
        one=np.array(1),
        **{**ROW, **PAST, "q": (3, 36), "bias": (36,)},
    ),
    fused(
        "Attention with its projections, one of a batch by a weight, with scores for each",
        f"s = Mul(x, w)\nu = com.microsoft.Attention<num_heads=4>(s, q, bias, , , scores)\n{BATCH}",
        "6 w[0] scores[0] last[0]",
        **{**ROW, **PAST, "q": (3, 36), "bias": (36,), "scores": (6, 1, 5, 5)},
    ),
    fused(
        "Attention with projections that are not zero where its channels are not either: these stay",
        """t = MatMul(x, e)
        s = Sigmoid(t)
        m = ReduceMean<axes=[0], keepdims=0>(s)
        r = Transpose(m)
        p = MatMul(r, q)
        u = com.microsoft.Attention<num_heads=4>(s, p, bias)
        y = MatMul(u, o)""",
        "4 q[1]*9 bias[0]*9 o[0]*3",
        **{**WEIGHTS, "e": (3, 6), "q": (5, 36), "bias": (36,)},
    ),
    fused(
        "Attention with its projections, a batch that a mask counts in pairs",
        f"s = Mul(x, w)\nu = com.microsoft.Attention<num_heads=4>(s, q, bias, ends)\n{BATCH}",
        ends=np.array([5, 4, 3, 5, 5, 5, 0, 0, 0, 1, 1, 1], np.int32),
        **{**ROW, **PAST, "q": (3, 36), "bias": (36,)},
    ),
    fused(
        "Attention with its projections, of channels by a weight",
        "s = MatMul(x, e)\nu = com.microsoft.Attention<num_heads=4>(s, q, bias)\ny = MatMul(u, o)",
        "6 e[1] q[0]",
        "4 q[1]*9 bias[0]*9 o[0]*3",
        **{**WEIGHTS, "e": (3, 6), "q": (6, 36), "bias": (36,)},
    ),
    fused(
        "MultiHeadAttention with keys and values by head",
        f"""{PROJECTED}
        b4 = Reshape(b, s)
        c4 = Reshape(c, s)
        bt4 = Transpose<perm=[0,2,1,3]>(b4)
        ct4 = Transpose<perm=[0,2,1,3]>(c4)
        u = com.microsoft.MultiHeadAttention<num_heads=4>(a, bt4, ct4)
        y = MatMul(u, o)""",
        HEADS,
        s=np.array([0, 0, 4, 3]),
        **WEIGHTS,
    ),
    fused(
        "MultiHeadAttention with keys and values from before, and scores by head",
        f"{PROJECTED}u, key, value = com.microsoft.MultiHeadAttention<num_heads=4>(a, b, c, bias, , scores, pk, pv)\n"
        + PRESENT,
        "4 q[1]*3 k[1]*3 v[1]*3 bias[0]*9 scores[1] pk[1] pv[1] n[0]*3 m[0]*3 o[0]*3",
        bias=(36,),
        **{**WEIGHTS, **PAST},
    ),
    fused(
        "MultiHeadAttention, one of a batch by a weight",
        f"{SIX}u, key, value = com.microsoft.MultiHeadAttention<num_heads=4>(a, b, c, , masked, scores, pk, pv)\n"
        + BATCHES,
        "6 w[0] scores[0] pk[0] pv[0] last[0]",
        rank=2,
        masked=np.array([[1] * 8] * 5 + [[1] * 4 + [0] * 4], np.int32),
        **{**ROW, **PAST, "scores": (6, 1, 5, 8), "pk": (6, 4, 3, 3), "pv": (6, 4, 3, 3)},
    ),
    fused(
        "GroupQueryAttention with keys and values from before",
        f"{PROJECTED}u, key, value = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
        "(a, b, c, pk, pv, length, total)\n" + PRESENT,
        "2 q[1]*16 k[1]*8 v[1]*8 pk[1] pv[1] n[0]*8 m[0]*8 o[0]*16",
        length=np.array([7], np.int32),
        total=np.array(8, np.int32),
        **{
            **{**ROW, **PAST, "q": (3, 32), "k": (3, 16), "v": (3, 16), "o": (32, 7)},
            **{"pk": (1, 2, 3, 8), "pv": (1, 2, 3, 8), "n": (16, 7), "m": (16, 7), "flat": np.array([0, 0, 16])},
        },
    ),
    fused(
        "GroupQueryAttention, scores by group and a sink for each head",
        f"{PROJECTED}u, key, value = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=4>"
        "(a, b, c, , , length, total, , , , scores, sink)\ny = MatMul(u, o)",
        "4 q[1]*8 k[1]*8 v[1]*8 scores[1] sink[0] o[0]*8",
        length=np.array([4, 4], np.int32),
        total=np.array(5, np.int32),
        **{**WEIGHTS, "q": (3, 32), "k": (3, 32), "v": (3, 32), "o": (32, 7), "scores": (1, 4, 5, 5), "sink": (4,)},
    ),
    fused(
        "GroupQueryAttention, one of a batch by a weight",
        f"{SIX}u, key, value = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
        f"(a, b, c, pk, pv, length, total)\n{BATCHES}",
        "6 w[0] pk[0] pv[0] last[0]",
        rank=2,
        length=np.array([3] * 6, np.int32),
        total=np.array(4, np.int32),
        **{
            **{**ROW, **PAST, "q": (3, 32), "k": (3, 16), "v": (3, 16), "pk": (6, 2, 3, 8), "pv": (6, 2, 3, 8)},
            "inputs": "float[1,1,3] x",
        },
    ),
    fused(
        "GroupQueryAttention, one of a batch by a weight, with a place for each",
        f"{SIX}u, key, value = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, do_rotary=1>"
        f"(a, b, c, pk, pv, length, total, cos, sin, at)\n{BATCHES}",
        "6 w[0] pk[0] pv[0] last[0]",
        rank=2,
        length=np.array([3] * 6, np.int32),
        total=np.array(4, np.int32),
        at=np.arange(6).reshape(6, 1),
        **{
            **{**ROW, **PAST, "q": (3, 64), "k": (3, 32), "v": (3, 32), "pk": (6, 2, 3, 16), "pv": (6, 2, 3, 16)},
            **{"cos": (8, 8), "sin": (8, 8), "inputs": "float[1,1,3] x"},
        },
    ),
    fused(
        "GroupQueryAttention of queries, keys and values side by side",
        "a = MatMul(x, q)\nu, pk, pv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
        "(a, , , , , length, total)\ny = MatMul(u, o)",
        "2 q[1]*32 o[0]*16",
        length=np.array([4, 4], np.int32),
        total=np.array(5, np.int32),
        **{**WEIGHTS, "q": (3, 64), "o": (32, 7)},
    ),
]
CASES = [*STANDARD, *ROTARY, *MICROSOFT, *CACHES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("shapes", [[(2, 5, 4, 3, 3)], [(2, 5, 12), (2, 6, 4, 2, 3)]])
def test_heads_whose_keys_and_values_stand_side_by_side_go_whole(shapes: list[tuple[int, ...]]) -> None:
    """onnxruntime has no kernel for these on processors, so that the shape of what comes out is not known there."""
    inputs, y = tuple(Operand(f"x{k}", shape) for k, shape in enumerate(shapes)), Operand("y", (2, 5, 12))
    call = Call("com.microsoft.MultiHeadAttention", "", inputs, (y,), {"num_heads": 4}, 17)
    made = {tie.a: tie for tie in RULES[call.op].ties(call) if isinstance(tie, Tie)}
    last = inputs[-1]
    assert {dim for dim in made if dim.tensor == last.name} == {last.dim(0), last.dim(2)}
    assert made[last.dim(2)].b == y.dim(2)
    assert made[last.dim(2)].at_b.tolist() == [0, 3, 6, 9]


def test_a_rotation_counts_the_heads_that_are_left() -> None:
    case = next(case for case in CASES if case.name == "RotaryEmbedding of a part of a head")
    model = load(case.model)
    groups = analyse(model).groups
    (node,) = [node for node in cut(model, gone(groups, halves(groups))).nodes if node.op == "RotaryEmbedding"]
    assert (node.attrs["num_heads"], node.attrs["rotary_embedding_dim"]) == (1, 4)


MADE = {"a": (2, 5, 12), "b": (2, 6, 12), "c": (2, 6, 12), "p": (2, 5, 3), "q": (3, 36), "e": (36,)}


@pytest.mark.parametrize(
    ("body", "opset", "macs"),
    [
        # two of a batch, five queries of six keys, four heads of three: each key of a head meets each query in 3 + 3
        ("y = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c)", 23, 2 * 4 * 5 * 6 * (3 + 3)),
        ("y = Attention(h, i, j)", 23, 2 * 4 * 5 * 6 * (3 + 3)),
        ("y = com.microsoft.MultiHeadAttention<num_heads=4>(a, b, c)", 17, 2 * 4 * 5 * 6 * (3 + 3)),
        # of five keys, and three channels by 36
        ("y = com.microsoft.Attention<num_heads=4>(p, q, e)", 17, 2 * 5 * 3 * 36 + 2 * 4 * 5 * 5 * (3 + 3)),
    ],
)
def test_multiplications(body: str, opset: int, macs: int) -> None:
    heads = {"h": (2, 4, 5, 3), "i": (2, 4, 6, 3), "j": (2, 4, 6, 3)}
    used = {n: s for n, s in {**MADE, **heads}.items() if f"({n}," in body or f" {n}," in body or f" {n})" in body}
    if opset == 23:
        model = net(f"{body}\nz = Add(y, o)", outputs="z", inputs="float[1] o", opset=23, **used)
    else:
        model = fused("", f"z = Identity(x)\n{body}", inputs="float[1] x", **used).model
    assert CostModel(load(model)).at().macs == macs
