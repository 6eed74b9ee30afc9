"""The law on tiny nets with attention as one operator."""

from __future__ import annotations

import numpy as np
import pytest

from tests.law import Case, case, check
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
        "u = com.microsoft.Attention<num_heads=2, qkv_hidden_sizes=[6,6,12], unidirectional=1>(x, q, bias)\n"
        "y = MatMul(u, o)",
        "2 q[1]*12 bias[0]*12 o[0]*6",
        **{**WEIGHTS, "q": (3, 24), "bias": (24,)},
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
]
CASES = [*STANDARD, *ROTARY, *MICROSOFT]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)
