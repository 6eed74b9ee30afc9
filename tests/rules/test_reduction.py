"""The law on tiny nets with pools, resizes and reductions."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import RULES, Call, Operand
from tests.law import Case, between, check, net


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


REDUCE = ["Max", "Mean", "Min", "Prod", "Sum", "SumSquare", "L1", "L2", "LogSumExp", "LogSum"]


def _reduce(kind: str, opset: int, axes: tuple[int, ...], keepdims: int, pinned: bool) -> Case:
    """The reduction over some axes of an image, followed by what brings its result to a convolution again."""
    by_input = opset >= (13 if kind == "Sum" else 18)
    listed = ",".join(map(str, axes))
    positive = "v = Exp(t)" if kind == "LogSum" else "v = Identity(t)"
    if by_input:
        text, weights = f"r = Reduce{kind}<keepdims={keepdims}>(v, k)", {"k": ints(*axes)}
    else:
        text, weights = f"r = Reduce{kind}<axes=[{listed}], keepdims={keepdims}>(v)", {}
    spread = "\n".join([positive, text, "u = Identity(r)" if keepdims else f"u = Unsqueeze<axes=[{listed}]>(r)"])
    if not keepdims and opset >= 13:
        spread = spread.replace(f"<axes=[{listed}]>(r)", "(r, k)")
        weights["k"] = ints(*axes)
    over_channel = any(axis % 4 == 1 for axis in axes)
    weights |= {"b": (4, 1 if over_channel else 6, 1, 1)}
    name = f"Reduce{kind} over {list(axes)}, keepdims {keepdims}, opset {opset}"
    exact = over_channel and kind in ("Mean", "Sum", "SumSquare", "L1", "L2")  # zeros are not missed
    groups = ("6 a[0] c[0]",) if exact else ()
    return between(name, spread, *groups, opset=opset, pinned=pinned and not exact, **weights)


POOLS = [
    between("MaxPool", "u = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t)"),
    between("MaxPool with an unread index output", "u, i = MaxPool<kernel_shape=[2,2]>(t)"),
    between(
        "MaxPool whose indices are read: they count over all channels",
        "v, i = MaxPool<kernel_shape=[2,2]>(t)\nf = Cast<to=1>(i)\nu = Add(v, f)",
        pinned=True,
    ),
    between("AveragePool", "u = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(t)"),
    between("AveragePool, ceil_mode", "u = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(t)"),
    between("LpPool", "u = LpPool<kernel_shape=[2,2], p=2>(t)"),
    between("GlobalAveragePool", "u = GlobalAveragePool(t)"),
    between("GlobalMaxPool", "u = GlobalMaxPool(t)"),
    between("GlobalLpPool", "u = GlobalLpPool<p=2>(t)"),
    between(
        "MaxPool, one-dimensional",
        "v = MaxPool<kernel_shape=[2]>(t)\nu = Relu(v)",
        inputs="float[1,3,8] x",
        a=(6, 3, 1),
        b=(4, 6, 1),
    ),
]
RESIZE = [
    between("Resize by scales", 'u = Resize<mode="nearest">(t, , k)', k=floats(1, 1, 2, 2)),
    between(
        "Resize by scales, linear, opset 11",
        'u = Resize<mode="linear">(t, r, k)',
        opset=11,
        r=floats(),
        k=floats(1, 1, 1.5, 1.5),
    ),
    between("Resize to sizes: the channels' size follows", 'u = Resize<mode="linear">(t, , , k)', k=ints(1, 6, 13, 11)),
    between("Resize to sizes of two axes", "u = Resize<axes=[2,-1]>(t, , , k)", opset=18, k=ints(13, 11)),
    between("Resize to sizes of three axes", "u = Resize<axes=[-3,2,3]>(t, , , k)", opset=18, k=ints(6, 13, 11)),
    between(
        "Resize to sizes known at run time",
        "n = Shape<end=1>(x)\nh = Shape<start=2>(x)\nk = Concat<axis=0>(n, six, h)\nu = Resize(t, , , k)",
        inputs="float[1,3,H,8] x",
        six=ints(6),
        pinned=True,
    ),
    between("Resize, opset 10", "u = Resize(t, k)", opset=10, k=floats(1, 1, 2, 2)),
    between("Resize of the channels stays", "u = Resize(t, , k)", k=floats(1, 2, 1, 1), b=(4, 12, 1, 1), pinned=True),
    between(
        "Resize by a region stays",
        'u = Resize<coordinate_transformation_mode="tf_crop_and_resize", mode="linear">(t, r, , k)',
        r=floats(0, 0, 0, 0, 1, 0.5, 1, 1),
        k=ints(1, 6, 8, 8),
        pinned=True,
    ),
    between("Upsample, opset 9", "u = Upsample(t, k)", opset=9, k=floats(1, 1, 2, 2)),
]
REDUCTIONS = [
    *(_reduce(kind, 13, (2, 3), 1, pinned=False) for kind in REDUCE),
    *(_reduce(kind, 18, (-1,), 0, pinned=False) for kind in REDUCE),
    *(_reduce(kind, 11, (3,), 0, pinned=False) for kind in REDUCE),
    *(_reduce(kind, 18, (1,), 1, pinned=True) for kind in REDUCE),
    *(_reduce(kind, 11, (-3, 2), 0, pinned=True) for kind in REDUCE),
    between("ReduceMean of everything", "r = ReduceMean(t)\nu = Add(r, t)"),
    between("ReduceSum of everything, axes empty", "r = ReduceSum(t, k)\nu = Add(r, t)", k=ints()),
    between("ReduceMax of everything", "r = ReduceMax(t)\nu = Add(r, t)", pinned=True),
    between(
        "ReduceSum of what is not zero without its weights",
        "v = Sigmoid(t)\nr = ReduceSum(v, k)\nu = Add(r, t)",
        k=ints(1),
        pinned=True,
    ),
    between("ReduceSum of nothing", "u = ReduceSum<noop_with_empty_axes=1>(t, k)", k=ints()),
    between("ReduceSum of nothing, axes left out", "u = ReduceSum<noop_with_empty_axes=1>(t)"),
    *(
        between(f"{op} over another axis", f"r = {op}<axis=2>(t)\nu = Cast<to=1>(r)", matters=True)
        for op in ("ArgMax", "ArgMin")
    ),
    *(
        between(
            f"{op} over the last axis, not kept",
            f"r = {op}<axis=-1, keepdims=0>(t)\nf = Cast<to=1>(r)\nu = Unsqueeze(f, k)",
            k=ints(3),
        )
        for op in ("ArgMax", "ArgMin")
    ),
    *(
        between(f"{op} over the channels", f"r = {op}<axis=1>(t)\nf = Cast<to=1>(r)\nu = Add(t, f)", pinned=True)
        for op in ("ArgMax", "ArgMin")
    ),
]
SILENT = [
    between(
        f"{op}, averaged",
        f"v = {op}<axes=[3]>(t)\nu = ReduceMean<axes=[1]>(v)",
        *(["6 a[0] c[0]"] if silent else []),
        pinned=not silent,
        b=(4, 1, 1, 1),
    )
    for op, silent in {"ReduceL2": True, "ReduceMax": True, "ReduceLogSumExp": False}.items()
]
SILENT.append(
    between(
        "ReduceLogSum, averaged",
        "w = Abs(t)\nv = ReduceLogSum<axes=[3]>(w)\nu = ReduceMean<axes=[1]>(v)",
        pinned=True,
        b=(4, 1, 1, 1),
    )
)
OTHERS = [
    between("MaxPool of two images", "u = MaxPool<kernel_shape=[2,2]>(t)", inputs="float[2,3,8,8] x"),
    between("ArgMax over images", "r = ArgMax(t)\nf = Cast<to=1>(r)\nu = Add(t, f)", inputs="float[2,3,8,8] x"),
]
CASES = [*POOLS, *RESIZE, *REDUCTIONS, *SILENT, *OTHERS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMax", "Upsample"])
def test_axes_and_scales_that_are_computed_at_run_time_hold_all(operator: str) -> None:
    """Called, since the shape of what comes out is not known then, so that no rule is asked."""
    x, y = Operand("x", (2, 6)), Operand("y", (2, 1))
    assert not [*RULES[operator].ties(Call(operator, "", (x, Operand("k", (1,))), (y,), {}, 18))]


def test_pins_say_why() -> None:
    weights = {"a": (6, 3, 1, 1), "b": (4, 1, 1, 1)}
    model = load(net("t = Conv(x, a)\nu = ReduceMax<axes=[1]>(t)\ny = Conv(u, b)", **weights))
    assert {str(p.dim): p.why for p in analyse(model).pinned}["a[0]"] == "reduced over"
