"""The law on tiny nets with matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.cost import CostModel
from graphprune.groups import analyse
from graphprune.model import load
from tests.law import Case, case, check, net

ROWS = "float[5,3] x"
BATCH = "float[2,5,3] x"

CASES = [
    case("Gemm", "t = Gemm(x, a, c)\ny = Gemm(t, b)", "6 a[1] c[0] b[0]", inputs=ROWS, a=(3, 6), c=(6,), b=(6, 4)),
    case(
        "Gemm, transB, alpha and beta",
        "t = Gemm<transB=1, alpha=0.5, beta=2.0>(x, a, c)\ny = Gemm<transB=1>(t, b)",
        "6 a[0] c[0] b[1]",
        inputs=ROWS,
        a=(6, 3),
        c=(6,),
        b=(4, 6),
    ),
    case(
        "Gemm, transA",
        "t = Gemm(x, a)\nu = Transpose(t)\ny = Gemm<transA=1>(u, b)",
        "6 a[1] b[0]",
        inputs=ROWS,
        a=(3, 6),
        b=(6, 4),
    ),
    case(
        "Gemm, the weight first",
        "s = Gemm(a, x)\ny = Gemm(b, s)",
        "6 a[0] b[1]",
        inputs="float[3,5] x",
        a=(6, 3),
        b=(4, 6),
    ),
    case(
        "Gemm, the weight first and transposed",
        "s = Gemm<transA=1>(a, x)\ny = Gemm<transA=1>(b, s)",
        "6 a[1] b[0]",
        inputs="float[3,5] x",
        a=(3, 6),
        b=(6, 4),
    ),
    *(
        case(
            f"Gemm with a bias of shape {list(shape)}",
            "t = Gemm(x, a, c)\ny = Gemm(t, b)",
            f"6 a[1]{' ' if touched else ''}{touched} b[0]",
            inputs=ROWS,
            a=(3, 6),
            c=shape,
            b=(6, 4),
        )
        for shape, touched in [((1,), ""), ((5, 1), ""), ((1, 6), "c[1]"), ((5, 6), "c[1]"), ((6,), "c[0]")]
    ),
    case(
        "Gemm with a computed bias",
        "s = Gemm(x, d)\nt = Gemm(x, a, s)\ny = Gemm(t, b)",
        "6 d[1] a[1] b[0]",
        inputs=ROWS,
        d=(3, 6),
        a=(3, 6),
        b=(6, 4),
    ),
    case(
        "Gemm of two computed tensors: what it sums over goes where one is zero without its weights",
        "s0 = Gemm(x, d)\ns = Sigmoid(s0)\nt = Gemm(x, a)\nu = Gemm<transB=1>(s, t)\ny = Gemm(u, b)",
        "6 d[1] a[1]",
        inputs=ROWS,
        d=(3, 6),
        a=(3, 6),
        b=(5, 4),
    ),
    case(
        "Gemm of two computed tensors that are not zero without their weights: what it sums over stays",
        "t = Gemm(x, a)\ns = Sigmoid(t)\nu = Gemm<transB=1>(s, s)\ny = Gemm(u, b)",
        inputs=ROWS,
        a=(3, 6),
        b=(5, 4),
    ),
    case("MatMul", "t = MatMul(x, a)\ny = MatMul(t, b)", "6 a[1] b[0]", inputs=BATCH, a=(3, 6), b=(6, 4)),
    case(
        "MatMul, the weight first",
        "t = MatMul(a, x)\ny = MatMul(b, t)",
        "6 a[0] b[1]",
        inputs="float[2,3,5] x",
        a=(6, 3),
        b=(4, 6),
    ),
    case(
        "MatMul by a stack of weights: columns and matrices",
        "t = MatMul(x, a)\nu = MatMul(t, w)\nv = MatMul(u, b)\ny = ReduceMax<axes=[0], keepdims=0>(v)",
        "6 a[1] w[1]",
        "7 w[2] b[0]",
        inputs=BATCH,
        a=(3, 6),
        w=(2, 6, 7),
        b=(7, 4),
    ),
    case(
        "MatMul by a stack of weights where the batch is 1",
        "t = MatMul(x, w)\nu = MatMul(t, v)\ns = Transpose<perm=[1,2,0]>(u)\ny = MatMul(s, b)",
        "6 w[0] v[0] b[0]",
        "7 w[2] v[1]",
        inputs="float[1,5,3] x",
        w=(6, 3, 7),
        v=(6, 7, 2),
        b=(6, 4),
    ),
    case(
        "MatMul with a vector on the right",
        "t = MatMul(x, a)\nu = MatMul(t, v)\ny = MatMul(u, b)",
        "6 a[1] v[0]",
        inputs=BATCH,
        a=(3, 6),
        v=(6,),
        b=(5, 4),
    ),
    case(
        "MatMul with a vector on the left",
        "t = MatMul(v, x)\nu = MatMul(t, a)\ny = MatMul(u, b)",
        "6 a[1] b[0]",
        inputs=BATCH,
        v=(5,),
        a=(3, 6),
        b=(6, 4),
    ),
    case(
        "MatMul, rows of a computed tensor",
        "t = MatMul(a, x)\nu = MatMul(t, w)\ny = MatMul(b, u)",
        "6 a[0] b[1]",
        inputs="float[3,5] x",
        a=(6, 3),
        w=(5, 2),
        b=(4, 6),
    ),
    case(
        "MatMul of integers: zeroing leaves integers alone, so what is summed over stays",
        "t = MatMul(x, a)\ns = Exp(t)\ni = Cast<to=6>(s)\nu = MatMul(i, k)\nf = Cast<to=1>(u)\ny = MatMul(f, b)",
        "5 b[0]",
        inputs=BATCH,
        a=np.full((3, 6), 2.0, np.float32),
        k=np.arange(30, dtype=np.int32).reshape(6, 5),
        b=(5, 4),
    ),
    case(
        "MatMul of integers that are zero without their weights",
        "t = MatMul(x, a)\ni = Cast<to=6>(t)\nu = MatMul(i, k)\nf = Cast<to=1>(u)\ny = MatMul(f, b)",
        "6 a[1]",
        "5 b[0]",
        inputs=BATCH,
        a=np.full((3, 6), 2.0, np.float32),
        k=np.arange(30, dtype=np.int32).reshape(6, 5),
        b=(5, 4),
    ),
    case(
        "MatMul of two computed tensors: the axis summed over stays, the others go",
        "q = MatMul(x, a)\nk = MatMul(x, d)\nr = Transpose<perm=[0,2,1]>(k)\ns = MatMul(r, q)\ny = MatMul(s, b)",
        "7 a[1] b[0]",
        inputs=BATCH,
        a=(3, 7),
        d=(3, 6),
        b=(7, 4),
    ),
    case(
        "Einsum, a product",
        't = Einsum<equation="bsd,dh->bsh">(x, a)\ny = Einsum<equation="h o, b s h -> b s o">(b, t)',
        "6 a[1] b[0]",
        inputs=BATCH,
        a=(3, 6),
        b=(6, 4),
    ),
    case(
        "Einsum, output left unsaid, axes behind dots",
        't = Einsum<equation="...d,dh">(x, a)\nu = Einsum<equation="...h,h->...h">(t, c)\ny = MatMul(u, b)',
        "6 a[1] c[0] b[0]",
        inputs=BATCH,
        a=(3, 6),
        c=(6,),
        b=(6, 4),
    ),
    case(
        "Einsum, axes behind dots between others",
        't = MatMul(x, a)\nu = Einsum<equation="a...b,bc->a...c">(t, w)\ny = MatMul(u, b)',
        "6 a[1] w[0]",
        "7 w[1] b[0]",
        inputs="float[2,1,5,3] x",
        a=(3, 6),
        w=(6, 7),
        b=(7, 4),
    ),
    case(
        "Einsum of one batch and a stack of weights",
        't = MatMul(x, a)\nu = Einsum<equation="...ij,...jk->...ik">(t, w)\nv = ReduceSum(u, z)\ny = MatMul(v, b)',
        "6 a[1] w[1]",
        "2 w[0]",
        "7 w[2] b[0]",
        inputs="float[1,5,3] x",
        a=(3, 6),
        w=(2, 6, 7),
        z=np.array([0]),
        b=(7, 4),
    ),
    case(
        "Einsum of tensors that are not zero without their weights: what it sums over stays",
        't = MatMul(x, a)\ns = Sigmoid(t)\nu = Einsum<equation="bsh,bth->bst">(s, s)\ny = MatMul(u, b)',
        inputs=BATCH,
        a=(3, 6),
        b=(5, 4),
    ),
    case(
        "Einsum of heads, as queries meet keys and weigh values",
        """q = Einsum<equation="bsd,dhk->bshk">(x, a)
        k = Einsum<equation="bsd,dhk->bshk">(x, d)
        v = Einsum<equation="bsd,dhk->bshk">(x, e)
        r = Einsum<equation="bqhd,bkhd->bhqk">(q, k)
        p = Softmax(r)
        o = Einsum<equation="bhqk,bkhd->bqhd">(p, v)
        y = Einsum<equation="bshk,hko->bso">(o, b)""",
        "4 a[1] d[1] e[1] b[0]",
        "2 a[2] d[2]",
        "7 e[2] b[1]",
        inputs=BATCH,
        a=(3, 4, 2),
        d=(3, 4, 2),
        e=(3, 4, 7),
        b=(4, 7, 5),
    ),
    case(
        "Einsum that sums over one of its operands",
        't = MatMul(x, a)\nu = Einsum<equation="bsh->bs">(t)\nw = Unsqueeze(u, n)\ny = Mul(w, b)',
        "6 a[1]",
        inputs=BATCH,
        a=(3, 6),
        n=np.array([2]),
        b=(1,),
    ),
    case(
        "Einsum over what is not silent",
        't = MatMul(x, a)\ne = Exp(t)\ny = Einsum<equation="bsh->bs">(e)',
        inputs=BATCH,
        a=(3, 6),
    ),
    case(
        "Einsum of a diagonal stays",
        't = MatMul(x, a)\nu = Einsum<equation="bss->bs">(t)\ny = MatMul(u, b)',
        inputs="float[2,6,3] x",
        a=(3, 6),
        b=(6, 4),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


def test_two_computed_tensors_say_why_they_stay() -> None:
    awake = "q0 = MatMul(x, a)\nq = Exp(q0)\nk0 = MatMul(x, d)\nk = Exp(k0)\n"
    text = f"{awake}r = Transpose<perm=[0,2,1]>(k)\ny = MatMul(q, r)"
    why = {str(p.dim): p.why for p in analyse(load(net(text, inputs=BATCH, a=(3, 6), d=(3, 6)))).pinned}
    assert why["a[1]"] == why["d[1]"] == "summed over, and not zero for certain once its weights are"


@pytest.mark.parametrize(
    ("body", "inputs", "weights", "macs"),
    [
        ("y = Gemm(x, a)", ROWS, {"a": (3, 6)}, 5 * 3 * 6),
        ("y = Gemm<transA=1>(x, a)", "float[3,5] x", {"a": (3, 6)}, 5 * 3 * 6),
        ("y = MatMul(x, a)", BATCH, {"a": (3, 6)}, 2 * 5 * 3 * 6),
        ("y = MatMul(a, x)", "float[2,3,5] x", {"a": (6, 3)}, 2 * 5 * 3 * 6),
        ("y = MatMul(x, a)", BATCH, {"a": (3,)}, 2 * 5 * 3),
    ],
)
def test_macs(body: str, inputs: str, weights: dict[str, tuple[int, ...]], macs: int) -> None:
    assert CostModel(load(net(body, inputs=inputs, **weights))).at().macs == macs
