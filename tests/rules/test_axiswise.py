"""The law on tiny nets with operators that work along some axes."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import load
from tests.law import Case, among, between, check, net
from tests.rules.test_movement import ints

TURNED = "p = Transpose<perm=[0,2,3,1]>(t)\n{}\nu = Transpose<perm=[0,3,1,2]>(v)"
CASES = [
    *(
        case
        for op in ("CumSum", "CumProd")
        for case in (
            between(f"{op} along the channels", f"u = {op}(t, k)", opset=26, k=np.array(1), pinned=True),
            between(f"{op} along another axis", f"u = {op}<reverse=1, exclusive=1>(t, k)", opset=26, k=ints(-1)),
        )
    ),
    between(
        "CumSum along an axis computed at run time",
        "n = Shape<start=0, end=1>(x)\nu = CumSum(t, n)",
        pinned=True,
        inputs="float[2,3,8,8] x",
    ),
    between("DFT along another axis", "u = DFT<axis=2>(t)", inputs="float[1,3,8,2] x"),
    between("DFT along the second axis unless said otherwise", "u = DFT(t)", inputs="float[1,3,8,2] x", pinned=True),
    between("DFT along another axis, opset 20", "u = DFT(t, , k)", inputs="float[1,3,8,2] x", opset=20, k=np.array(2)),
    between("DFT along the last but one, opset 20", "u = DFT(t)", inputs="float[1,3,8,2] x", opset=20),
    between(
        "DFT along the channels, opset 20",
        "u = DFT(t, , k)",
        inputs="float[1,3,8,2] x",
        opset=20,
        k=np.array(1),
        pinned=True,
    ),
    between(
        "DFT of which the channels are the parts",
        TURNED.format("v = DFT<axis=1>(p)"),
        pinned=True,
        a=(2, 3, 1, 1),
        c=(2,),
        b=(4, 2, 1, 1),
    ),
    between("Det of images", "d = Det(t)\nu = Unsqueeze(d, k)", k=ints(2, 3)),
    between(
        "Det of channels",
        "p = Transpose<perm=[0,2,3,1]>(t)\nd = Det(p)\nu = Unsqueeze(d, k)",
        k=ints(2, 3),
        inputs="float[1,3,8,6] x",
        b=(4, 8, 1, 1),
        pinned=True,
    ),
    between(
        "ReverseSequence along other axes",
        "p = Transpose<perm=[0,2,3,1]>(t)\nv = ReverseSequence<batch_axis=0, time_axis=1>(p, n)\n"
        "u = Transpose<perm=[0,3,1,2]>(v)",
        inputs="float[2,3,8,8] x",
        n=ints(5, 2),
    ),
    between(
        "ReverseSequence, channels for a batch unless said otherwise",
        "p = Transpose<perm=[2,1,0,3]>(t)\nv = ReverseSequence(p, n)\nu = Transpose<perm=[2,1,0,3]>(v)",
        n=ints(5, 2, 8, 1, 3, 4),
        pinned=True,
    ),
    between(
        "ReverseSequence of the channels",
        "u = ReverseSequence<batch_axis=0, time_axis=1>(t, n)",
        n=ints(4),
        pinned=True,
    ),
    between(
        "ReverseSequence of the channels unless said otherwise",
        "p = Transpose<perm=[1,0,2,3]>(t)\nv = ReverseSequence(p, n)\nu = Transpose<perm=[1,0,2,3]>(v)",
        n=ints(4),
        pinned=True,
    ),
    between("TopK along another axis", "u, i = TopK<axis=2>(t, k)", k=ints(3)),
    between("TopK along the last axis", "v, i = TopK(t, k)\nf = Cast<to=1>(i)\nu = Mul(v, f)", k=ints(3)),
    between("TopK of the channels", "u, i = TopK<axis=1, largest=0>(t, k)", k=ints(3), b=(4, 3, 1, 1), pinned=True),
    between("Trilu of images", "u = Trilu(t)"),
    between("Trilu of columns that are channels", TURNED.format("v = Trilu<upper=0>(p)"), pinned=True),
    between(
        "Trilu of rows that are channels",
        "p = Transpose<perm=[0,2,1,3]>(t)\nv = Trilu(p)\nu = Transpose<perm=[0,2,1,3]>(v)",
        pinned=True,
    ),
    between("CenterCropPad of other axes", "u = CenterCropPad<axes=[2,-1]>(t, k)", opset=18, k=ints(4, 10)),
    between(
        "CenterCropPad of the channels",
        "u = CenterCropPad<axes=[1]>(t, k)",
        opset=18,
        k=ints(4),
        b=(4, 4, 1, 1),
        pinned=True,
    ),
    between("CenterCropPad of all axes", "u = CenterCropPad(t, k)", opset=18, k=ints(1, 6, 4, 4), pinned=True),
    between(
        "ReverseSequence, channels for a batch, said aloud",
        "p = Transpose<perm=[1,0,2,3]>(t)\nv = ReverseSequence<batch_axis=0, time_axis=1>(p, n)\n"
        "u = Transpose<perm=[1,0,2,3]>(v)",
        n=np.ones(6, np.int64),
        pinned=True,
    ),
    among(
        "Trilu of a matrix of channels by steps",
        "p = Transpose<perm=[0,2,1]>(t)\nv = Trilu(p)\nu = Transpose<perm=[0,2,1]>(v)",
        pinned=True,
    ),
    among("Det of a matrix", "d = Det(t)\nu = Mul(t, d)", inputs="float[1,6,3] x", pinned=True),
    *(
        among(
            f"DFT, opset 20, of rank 5, {name}",
            f"p = Transpose<perm=[0,2,1]>(t)\nq = Unsqueeze(p, z)\nf = DFT({axis})\ng = ReduceSum<keepdims=0>(f, e)\n"
            "u = Transpose<perm=[0,2,1]>(g)",
            opset=20,
            z=ints(1, 4),
            e=ints(1, 4),
            **given,
        )
        for name, axis, given in (
            ("along the last but one", "q", {}),
            ("along a given axis", "q, , k", {"k": np.array(3)}),
        )
    ),
    *(
        between(
            f"DFT, opset 20, of which the channels are the parts, {name}",
            TURNED.format(f"v = DFT({axis})"),
            opset=20,
            a=(2, 3, 1, 1),
            c=(2,),
            b=(4, 2, 1, 1),
            pinned=True,
            **given,
        )
        for name, axis, given in (
            ("along the last but one", "p", {}),
            ("along a given axis", "p, , k", {"k": np.array(1)}),
        )
    ),
    between(
        "DFT along an axis computed at run time",
        "n = Shape(x)\nk = Gather(n, z)\nu = DFT(t, , k)",
        inputs="float[1,3,8,2] x",
        known="float[1,6,8,2] u",
        opset=20,
        z=np.array(3),
        pinned=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


def test_pins_say_why() -> None:
    body = "t = Conv(x, a)\nu, i = TopK<axis=1>(t, k)\ny = Conv(u, b)"
    model = load(net(body, a=(6, 3, 1, 1), k=ints(3), b=(4, 3, 1, 1)))
    assert {str(p.dim): p.why for p in analyse(model).pinned}["a[0]"] == "sorted by value"
