"""Shapes and patterns at the edge of what the kernels take: whatever runs them, the values are onnxruntime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler import compile_model
from graphprune.errors import CompileError
from tests.compiler.oracle import check, model

CASES = {
    "computed filters": model("g (float[1,4,8,8] x, float[5,4,3,3] w) => (float[1,5,6,6] y) { y = Conv (x, w) }"),
    "computed filters, one dimension": model(
        "g (float[1,4,8] x, float[5,4,3] w) => (float[1,5,6] y) { y = Conv (x, w) }"
    ),
    "three dimensions": model("g (float[1,2,5,6,7] x) => (float[1,3,3,4,5] y) { y = Conv (x, w) }", w=(3, 2, 3, 3, 3)),
    "pooling, one dimension": model(
        "g (float[1,2,9] x) => (float[1,2,4] y) { y = MaxPool <kernel_shape=[2],strides=[2]> (x) }"
    ),
    "dilated pooling": model(
        "g (float[1,2,9,9] x) => (float[1,2,5,5] y) { y = MaxPool <kernel_shape=[3,3],dilations=[2,2]> (x) }"
    ),
    "vector by matrix": model("g (float[8] x) => (float[5] y) { y = MatMul (x, w) }", w=(8, 5)),
    "constant on the left": model("g (float[8,5] x) => (float[3,5] y) { y = MatMul (w, x) }", w=(3, 8)),
    "scalar output": model("g (float[8,5] x) => (float y) { y = ReduceMean <keepdims=0> (x) }"),
    "one key for all heads": model(
        "g (float[1,6,4,8] x, float[1,1,8,4] z) => (float[1,6,4,4] y) { y = MatMul (x, z) }"
    ),
    "broadcast in the middle": model(
        "g (float[2,6,4,8] x, float[2,1,8,4] z) => (float[2,6,4,4] y) { y = MatMul (x, z) }"
    ),
    "float64": model("g (double[4] x) => (double[4] y) { y = Exp (x) }"),
    "float64 product": model("g (double[4,3] x, double[3,4] z) => (double[4,4] y) { y = MatMul (x, z) }"),
    "normalised rows": model(
        "g (float[4,3] x) => (float[4,3] y) { y = BatchNormalization (x, a, a, a, a) }", a=np.ones(3, np.float32)
    ),
    "joined with a constant": model(
        "g (float[1,3] x) => (float[1,6] y) { y = Concat <axis=1> (c, x) }", c=np.ones((1, 3), np.float32)
    ),
    "a value added to itself": model(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv (x, w) y = Add (c, c) }", w=(4, 4, 1, 1)
    ),
    "the input is the residual": model(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv (x, w) y = Add (x, c) }", w=(4, 4, 1, 1)
    ),
    "a value times its gate": model(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv (x, w) s = Sigmoid (c) y = Mul (c, s) }", w=(4, 4, 1, 1)
    ),
    "subtracted from a constant": model(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv (x, w) y = Sub (b, c) }",
        w=(4, 4, 1, 1),
        b=np.ones((4, 1, 1), np.float32),
    ),
    "bias per row": model(
        "g (float[3,4] x) => (float[3,5] y) { c = MatMul (x, w) y = Add (c, b) }",
        w=(4, 5),
        b=np.arange(3, dtype=np.float32)[:, None],
    ),
    "an upper bound before a lower one": model(
        "g (float[3,4] x) => (float[3,5] y) { c = MatMul (x, w) d = Clip (c, , hi) y = Relu (d) }",
        w=(4, 5),
        hi=np.float32(0.5),
    ),
    "unused input": model("g (float[3] x, float[2] z) => (float[3] y) { y = Relu (x) }"),
}


@pytest.mark.parametrize("case", CASES)
def test_edge(case: str, tmp_path: Path) -> None:
    check(CASES[case], tmp_path)


def test_operators_that_have_no_form_are_refused_by_name(tmp_path: Path) -> None:
    text = "g (float[5,1,4] x) => (float[5,1,1,3] y) { y, h = RNN <hidden_size = 3> (x, w, r) }"
    with pytest.raises(CompileError, match="operator RNN"):
        compile_model(model(text, w=(1, 3, 4), r=(1, 3, 3)), tmp_path)
