"""Pooling: maximum and average, padded, strided, with and without the padding counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.kernels.window import average_weights
from tests.compiler.oracle import check, kinds, model

CASES = {
    "max 2x2": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
    "max 3x3, padded": "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)",
    "max, ceiling": "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
    "average": "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2]> (x)",
    "average, padded": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",
    "padding counted": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 0, 1, 2], count_include_pad = 1> (x)",
}


@pytest.mark.parametrize("case", CASES)
def test_pooling(case: str, tmp_path: Path) -> None:
    proto = model(f"g (float[2,3,14,15] x) => (float[n,c,h,w] y) {{ {CASES[case]} }}")
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


def test_a_maximum_of_negative_values_ignores_the_padding(tmp_path: Path) -> None:
    proto = model(
        "g (float[1,2,6,6] x) => (float[1,2,6,6] y) "
        "{ e = Exp (x) n = Neg (e) y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n) }"
    )
    check(proto, tmp_path)


def test_average_weights_count_what_lies_in_the_image() -> None:
    window = Window((3, 3), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), (3, 3))
    assert np.allclose(1 / average_weights(window, False), [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    assert np.allclose(average_weights(window, True), 1 / 9)
