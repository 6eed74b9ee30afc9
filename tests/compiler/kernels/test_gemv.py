"""One row by a matrix with zeros: how it is packed, and when it is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler.kernels.gemv import pack_row
from tests.compiler.oracle import check, kernels, model


def test_blocks_of_outputs_are_filled_up() -> None:
    b = np.zeros((5, 4), np.float32)
    b[3, 0], b[4, 1] = 7, 8
    packed = pack_row(b, 2)
    assert packed.pointers.tolist() == [0, 4, 4]
    assert packed.offsets.tolist() == [3, 4, 0, 0]
    assert packed.values.tolist() == [[7, 0], [0, 8], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("columns", "zeros", "how"), [(24, 0.8, "one row, 8"), (7, 0.9, "one row, 1"), (400, 0.02, "tile")]
)
def test_zeros_are_skipped_where_that_is_less(columns: int, zeros: float, how: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kept = np.repeat(rng.random((200, columns // 8 or columns)) >= zeros, 8 if columns > 8 else 1, 1)
    w = (rng.normal(size=(200, columns)) * kept).astype(np.float32)
    proto = model(f"g (float[1,200] x) => (float[1,{columns}] y) {{ y = MatMul (x, w) }}", w=w)
    (kernel,) = kernels(check(proto, tmp_path))
    assert kernel.how.startswith(how)


def test_nothing_but_bias_is_left_of_zeros(tmp_path: Path) -> None:
    text = "g (float[1,9] x) => (float[1,8] y) { m = MatMul (x, w) y = Add (m, b) }"
    (kernel,) = kernels(check(model(text, w=np.zeros((9, 8), np.float32), b=(8,)), tmp_path))
    assert kernel.name == "sparse_matmul"
