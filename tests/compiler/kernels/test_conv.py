"""Convolutions: every geometry, what is fused into them, and that they run in our kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune import runtime
from graphprune.compiler.kernels.conv import pack_weights
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.kernels.product import Product, Tile
from tests.compiler.oracle import check, feeds, kernels, kinds, model, thinned


def conv(
    channels: int, size: tuple[int, int], filters: int, kernel: tuple[int, int], batch: int = 1, **attributes: object
) -> onnx.ModelProto:
    """One Conv with bias."""
    text = ", ".join(f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in attributes.items())
    text = f"<{text}>" if text else ""
    graph = f"g (float[{batch},{channels},{size[0]},{size[1]}] x) => (float[n,f,h,w] y) {{ y = Conv {text} (x, w, b) }}"
    groups = attributes.get("group", 1)
    return model(graph, w=(filters, channels // groups, *kernel), b=(filters,))  # type: ignore[operator]


CASES = {
    "1x1": conv(16, (9, 11), 24, (1, 1)),
    "1x1, fewer pixels than lanes": conv(8, (2, 3), 12, (1, 1)),
    "1x1, a pixel beyond the vectors": conv(19, (7, 7), 21, (1, 1), batch=2),
    "1x1, stride 2": conv(8, (7, 7), 10, (1, 1), strides=[2, 2]),
    "3x3": conv(5, (13, 17), 7, (3, 3), pads=[1, 1, 1, 1]),
    "3x3, stride 2, odd": conv(6, (15, 13), 37, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1], batch=2),
    "3x3, stride 3": conv(3, (20, 22), 6, (3, 3), strides=[3, 3]),
    "5x5, dilated": conv(3, (19, 19), 6, (5, 5), dilations=[2, 2], pads=[4, 4, 4, 4]),
    "dilated and strided": conv(3, (19, 21), 6, (3, 3), dilations=[2, 3], strides=[2, 2], pads=[1, 2, 2, 3]),
    "kernel, stride and padding differ by axis": conv(4, (11, 18), 9, (1, 5), strides=[1, 2], pads=[0, 2, 0, 1]),
    "deep: k is cut into chunks": conv(160, (7, 7), 20, (3, 3), pads=[1, 1, 1, 1]),
    "grouped": conv(12, (10, 10), 18, (3, 3), group=3, pads=[1, 1, 1, 1]),
    "whole image": conv(6, (5, 4), 11, (5, 4), batch=3),
    "same upper": conv(4, (14, 14), 8, (3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    "same lower": conv(4, (14, 15), 8, (4, 2), strides=[2, 3], auto_pad="SAME_LOWER"),
    "depthwise": conv(10, (12, 9), 10, (3, 3), group=10, pads=[1, 1, 1, 1]),
    "depthwise, 5x5, stride 2": conv(6, (28, 28), 6, (5, 5), group=6, strides=[2, 2], pads=[2, 2, 2, 2], batch=2),
    "depthwise, multiplier 2": conv(4, (7, 7), 8, (3, 3), group=4, pads=[1, 1, 1, 1]),
    "depthwise, one column": conv(4, (7, 1), 4, (3, 1), group=4, pads=[1, 0, 1, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_geometry(case: str, tmp_path: Path) -> None:
    assert kinds(check(CASES[case], tmp_path)) == {"ours": 1}


@pytest.mark.parametrize(
    "case", ["3x3, stride 2, odd", "depthwise", "deep: k is cut into chunks", "1x1, fewer pixels than lanes"]
)
def test_other_register_files(case: str, narrow_target: str, tmp_path: Path) -> None:
    assert kinds(check(CASES[case], tmp_path, target=narrow_target)) == {"ours": 1}


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_a_pixel_beyond_the_vectors_has_lanes_of_output_channels(share: float, tmp_path: Path) -> None:
    proto = model(
        """g (float[1,300,7,7] x, float[1,37,7,7] r) => (float[1,37,7,7] y) {
            a = Conv (x, w, b)
            s = Add (a, r)
            y = Clip (s, low, high)
        }""",
        w=(37, 300, 1, 1),
        b=(37,),
        low=np.float32(-0.5),
        high=np.float32(1.5),
    )
    if share:
        proto = thinned(proto, share, 4)
    artefact = check(proto, tmp_path, target="x86-64")  # vectors of eight, whatever this machine has
    (kernel,) = kernels(artefact)
    assert "and one" in kernel.how
    inputs = feeds(proto)
    for threads in (2, 3):
        assert np.array_equal(runtime.load(tmp_path, threads)(inputs)["y"], runtime.load(tmp_path)(inputs)["y"])


def test_batchnorm_residual_and_clip_are_part_of_the_kernel(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,6,8,8] x) => (float[1,6,8,8] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w)
            n = BatchNormalization (a, scale, shift, mean, var)
            s = Add (x, n)
            y = Clip (s, low, high)
        }""",
        w=(6, 6, 3, 3),
        scale=np.linspace(0.5, 2, 6, dtype=np.float32),
        shift=np.linspace(-1, 1, 6, dtype=np.float32),
        mean=np.linspace(-0.5, 0.5, 6, dtype=np.float32),
        var=np.linspace(0.5, 1.5, 6, dtype=np.float32),
        low=np.float32(-0.5),
        high=np.float32(0.75),
    )
    for i, node in enumerate(proto.graph.node):
        node.name = f"node {i}"
    artefact = check(proto, tmp_path)
    (kernel,) = kernels(artefact)
    assert "tile" in kernel.how
    assert kernel.kind == "ours"
    assert kernel.nodes[-1] == "node 3"
    assert set(kernel.nodes) == {f"node {i}" for i in range(4)}


def test_a_sum_of_two_convolutions_is_added_once(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,4,8,8] x) => (float[1,5,8,8] y) {
            a = Conv (x, v)
            b = Conv <pads = [1, 1, 1, 1]> (x, w)
            s = Add (a, b)
            y = Relu (s)
        }""",
        v=(5, 4, 1, 1),
        w=(5, 4, 3, 3),
    )
    assert kinds(check(proto, tmp_path)) == {"ours": 2}


def test_one_dimension(tmp_path: Path) -> None:
    proto = model(
        """g (float[2,6,21] x) => (float[2,4,10] y) {
            y = Conv <strides = [2], pads = [1, 2], dilations = [2]> (x, w, b)
        }""",
        w=(4, 6, 3),
        b=(4,),
    )
    assert kinds(check(proto, tmp_path))["ours"] == 1  # next to views, which cost a copy at most


def test_a_value_read_twice_is_not_fused_away(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] c) {
            c = Conv (x, w)
            y = Relu (c)
        }""",
        w=(4, 4, 1, 1),
    )
    assert kinds(check(proto, tmp_path)) == {"ours": 1, "fallback": 1}


def test_explicit_padding_is_part_of_the_window(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,4,8,8] x) => (float[1,4,4,4] y) {
            p = Pad (x, pads)
            y = Conv <strides = [2, 2]> (p, w)
        }""",
        pads=np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        w=(4, 4, 3, 3),
    )
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


def test_weights_are_packed_in_the_order_they_are_read() -> None:
    weight = np.arange(2 * 3 * 2 * 1 * 1, dtype=np.float32).reshape(6, 2, 1, 1)  # two groups of three filters
    whole = Product(rows=3, columns=9, depth=2, tile=Tile(2, 1, 4), strip=1, chunk=2)
    assert pack_weights(weight, 2, whole).reshape(2, 2, 2, 2).tolist() == [
        [[[0, 2], [1, 3]], [[4, 0], [5, 0]]],
        [[[6, 8], [7, 9]], [[10, 0], [11, 0]]],
    ]
    cut = Product(rows=3, columns=9, depth=2, tile=Tile(2, 1, 4), strip=1, chunk=1)
    assert pack_weights(weight, 2, cut).reshape(2, 2, 2, 2)[0].tolist() == [[[0, 2], [4, 0]], [[1, 3], [5, 0]]]


@settings(max_examples=60)
@given(st.data())
def test_taps_of_a_window_find_the_padded_image(data: st.DataObject) -> None:
    """`tap` and the row distance address what the definition of convolution reads, whatever the stride phases are."""
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    image, kernel = (number(3, 9), number(3, 9)), (number(1, 3), number(1, 3))
    stride, dilation = (number(1, 3), number(1, 3)), (number(1, 2), number(1, 2))
    pad = tuple(number(0, 2) for _ in range(4))
    out = tuple((image[a] + pad[a] + pad[a + 2] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1))
    if min(out) < 1:
        return
    window = Window(image, kernel, stride, dilation, pad, out)  # type: ignore[arg-type]
    padded = np.pad(np.arange(1, 1 + image[0] * image[1]).reshape(image), ((pad[0], pad[2]), (pad[1], pad[3])))
    plane = np.full(window.plane, -1)
    for y in range(window.height):
        for phase in range(window.phases):
            for x in range(window.span):
                column = x * stride[1] + phase if window.copied else x
                if y < padded.shape[0] and column < padded.shape[1]:
                    plane[y * window.row + phase * window.span + x] = padded[y, column]
    for y, x, i, j in np.ndindex(*out, *kernel):
        found = plane[y * stride[0] * window.row + x + window.tap(i, j)]
        assert found == padded[y * stride[0] + i * dilation[0], x * stride[1] + j * dilation[1]]
