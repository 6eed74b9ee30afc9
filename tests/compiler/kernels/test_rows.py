"""Reductions, softmax and concatenation along rows of every length a vector does not divide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune import runtime
from graphprune.compiler import compile_model
from tests.compiler.oracle import check, kinds, model

CASES = {
    "global average": "g (float[2,5,7,7] x) => (float[2,5,1,1] y) { y = GlobalAveragePool (x) }",
    "mean of few": "g (float[4,3] x) => (float[4] y) { y = ReduceMean <axes = [1], keepdims = 0> (x) }",
    "mean of many": "g (float[3,1003] x) => (float[3,1] y) { y = ReduceMean <axes = [-1]> (x) }",
    "maximum": "g (float[3,2,75] x) => (float[3] y) { y = ReduceMax <axes = [1, 2], keepdims = 0> (x) }",
    "softmax of few": "g (float[5,3] x) => (float[5,3] y) { y = Softmax (x) }",
    "softmax of many": "g (float[2,3,131] x) => (float[2,3,131] y) { y = Softmax (x) }",
    "join": "g (float[2,3,5] x, float[2,1,5] z) => (float[2,7,5] y) { y = Concat <axis = 1> (x, z, x) }",
    "join the last axis": "g (float[2,3] x, float[2,4] z) => (float[2,7] y) { y = Concat <axis = -1> (x, z) }",
}


@pytest.mark.parametrize("case", CASES)
def test_rows(case: str, tmp_path: Path) -> None:
    assert kinds(check(model(CASES[case]), tmp_path)) == {"ours": 1}


def test_other_register_files(narrow_target: str, tmp_path: Path) -> None:
    check(model(CASES["softmax of many"]), tmp_path, target=narrow_target)


def test_a_sum_keeps_what_a_mean_divides(tmp_path: Path) -> None:
    proto = model("g (float[2,37] x) => (float[2,1] y) { y = ReduceSum (x, last) }", last=np.array([1]))
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


def test_softmax_of_extremes(tmp_path: Path) -> None:
    """Masked positions are exactly zero or far below anything that matters, and large values do not overflow."""
    compile_model(model("g (float[3,20] x) => (float[3,20] y) { y = Softmax (x) }"), tmp_path)
    x = np.full((3, 20), -np.inf, np.float32)
    x[0, 3] = 1
    x[1, :2] = 3e38
    x[2] = -1e30
    y = runtime.load(tmp_path)({"x": x})["y"]
    expected = np.zeros((3, 20))
    expected[0, 3], expected[1, :2], expected[2] = 1, 0.5, 1 / 20
    np.testing.assert_allclose(y, expected, atol=1e-6)
