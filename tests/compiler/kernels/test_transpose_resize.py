"""Transposed convolutions as convolutions by phase, and nearest neighbours as repetition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.compiler.oracle import check, model

TRANSPOSED = {
    "2 x 2 by 2": ((4, 3, 2, 2), "strides = [2, 2]"),
    "4 x 4 by 2, padded": ((4, 3, 4, 4), "strides = [2, 2], pads = [1, 1, 1, 1]"),
    "3 x 3 by 2, more outputs": ((4, 3, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]"),
    "odd output": ((4, 3, 3, 5), "strides = [2, 3]"),
    "stride 1": ((4, 3, 3, 3), "pads = [1, 1, 1, 1]"),
    "groups": ((4, 3, 4, 2), "group = 2, strides = [2, 2]"),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions(case: str, tmp_path: Path) -> None:
    shape, options = TRANSPOSED[case]
    filters = shape[1] * (2 if "group" in options else 1)
    text = f"g (float[2,4,5,6] x) => (float[n,f,h,w] y) {{ y = ConvTranspose <{options}> (x, w, b) }}"
    kernels = check(model(text, w=shape, b=(filters,)), tmp_path).manifest.kernels
    assert any(k.kind == "ours" and "conv" in k.name for k in kernels)


@pytest.mark.parametrize("case", ["strides = [3, 3]", "strides = [2, 2], dilations = [2, 2]", "pads = [2, 2, 2, 2]"])
def test_others_are_left_to_tvm(case: str, tmp_path: Path) -> None:
    text = f"g (float[1,3,6,6] x) => (float[n,f,h,w] y) {{ y = ConvTranspose <{case}> (x, w) }}"
    check(model(text, w=(3, 2, 2, 2)), tmp_path)


RESIZED = [
    'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
    'coordinate_transformation_mode = "half_pixel"',
    'coordinate_transformation_mode = "asymmetric"',
    'coordinate_transformation_mode = "align_corners", nearest_mode = "ceil"',
    'mode = "linear"',
]


@pytest.mark.parametrize("options", RESIZED)
@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (1.5, 2)])
def test_resizing(options: str, factors: tuple[float, float], tmp_path: Path) -> None:
    text = f"g (float[1,3,6,5] x) => (float[n,c,h,w] y) {{ y = Resize <{options}> (x, , scales) }}"
    check(model(text, scales=np.array([1, 1, *factors], np.float32)), tmp_path)
