"""No kernel reads or writes beyond the arrays it is given, which end, or begin, where memory may not be touched.

`tests/compiler/kernels/test_any_shape.py` draws shapes for the same check; here are edges chosen by hand.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import onnx
import pytest

from graphprune.compiler.memory import SLACK
from tests.compiler.fences import Fenced, check_fenced, in_child
from tests.compiler.oracle import model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect and fork")


CONV = "net (float[{n},{c},{h},{w}] x) => (float[{n},{k},{oh},{ow}] y) {{ y = Conv{a}(x, w, b) }}"


def conv(n: int, c: int, k: int, size: tuple[int, int], kernel: int, **attributes: int) -> onnx.ModelProto:
    """One convolution of an image without a border."""
    stride, group = attributes.get("stride", 1), attributes.get("group", 1)
    out = [(s - kernel) // stride + 1 for s in size]
    said = f"<strides=[{stride},{stride}], group={group}>"
    text = CONV.format(n=n, c=c, k=k, h=size[0], w=size[1], oh=out[0], ow=out[1], a=said)
    return model(text, w=(k, c // group, kernel, kernel), b=(k,))


def pool(op: str, size: tuple[int, int], kernel: int, stride: int = 1) -> onnx.ModelProto:
    out = [(s - kernel) // stride + 1 for s in size]
    said = f"<kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}]>"
    return model(f"net (float[1,3,{size[0]},{size[1]}] x) => (float[1,3,{out[0]},{out[1]}] y) {{ y = {op}{said}(x) }}")


def thinned(*shape: int) -> np.ndarray:
    """Weights of which four in five blocks of 4 outputs are zero."""
    rng = np.random.default_rng(0)
    blocks = rng.random((-(-shape[0] // 4), *shape[1:])) < 0.2
    return (rng.normal(size=shape) * np.repeat(blocks, 4, axis=0)[: shape[0]]).astype(np.float32)


NETS = {
    "max pool 9 x 9": pool("MaxPool", (9, 9), 3),
    "max pool 5 x 15": pool("MaxPool", (5, 15), 3),
    "average pool 9 x 9": pool("AveragePool", (9, 9), 3),
    "average pool 12 x 12, stride 2": pool("AveragePool", (12, 12), 2, 2),
    "depthwise 9 x 9": conv(1, 8, 8, (9, 9), 3, group=8),
    "depthwise 7 x 5": conv(2, 3, 3, (7, 5), 3, group=3),
    "depthwise 15 x 15, stride 2": conv(1, 4, 4, (15, 15), 3, group=4, stride=2),
    "1 x 1 on 7 x 7": conv(1, 5, 9, (7, 7), 1),
    "1 x 1 on one pixel": conv(3, 7, 3, (1, 1), 1),
    "1 x 1, stride 2": conv(1, 5, 6, (7, 9), 1, stride=2),
    "3 x 3 on 11 x 9": conv(1, 6, 10, (11, 9), 3),
    "3 x 3 on 16 x 16, wide": conv(1, 48, 48, (16, 16), 3),
    "3 x 3 on 11 x 9, sparse": model(
        "net (float[1,12,11,9] x) => (float[1,22,9,7] y) { y = Conv(x, w, b) }", w=thinned(22, 12, 3, 3), b=(22,)
    ),
    "5 x 5, stride 2": conv(1, 3, 7, (13, 17), 5, stride=2),
    "product of 5 x 33 with 33 x 13": model(
        "net (float[5,33] x) => (float[5,13] y) { y = Gemm(x, w, b) }", w=(33, 13), b=(13,)
    ),
    "product of 13 x 65 with 65 x 27, sparse": model(
        "net (float[13,65] x) => (float[13,27] y) { y = MatMul(x, w) }", w=np.ascontiguousarray(thinned(27, 65).T)
    ),
    "product of one row": model("net (float[1,33] x) => (float[1,7] y) { y = MatMul(x, w) }", w=(33, 7)),
    "products of two inputs": model(
        "net (float[2,3,7,5] x, float[2,3,5,9] z) => (float[2,3,7,9] y) { y = MatMul(x, z) }"
    ),
    "softmax of 13": model("net (float[3,13] x) => (float[3,13] y) { y = Softmax(x) }"),
    "transposed 3 x 3, stride 2": model(
        "net (float[1,5,7,6] x) => (float[1,3,15,13] y) { y = ConvTranspose <strides=[2,2]> (x, w) }", w=(5, 3, 3, 3)
    ),
    "nearest neighbours": model(
        "net (float[1,3,5,7] x) => (float[1,3,10,14] y) "
        '{ y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (x, , s) }',
        s=np.array([1, 1, 2, 2], np.float32),
    ),
    "instance norm": model(
        "net (float[2,3,5,5] x) => (float[2,3,5,5] y) { y = InstanceNormalization (x, a, b) }", a=(3,), b=(3,)
    ),
    "rows by index, and a table": model(
        "net (int64[7] i) => (float[7,11] y) { g = Gather (w, i) t = Tanh (g) y = Mul (t, w2) }", w=(2, 11), w2=(7, 11)
    ),
    "mean over 7 x 7": model("net (float[2,5,7,7] x) => (float[2,5,1,1] y) { y = GlobalAveragePool(x) }"),
}


@pytest.mark.parametrize("at_end", [True, False])
def test_a_value_outside_ends_the_process(at_end: bool) -> None:
    fenced = Fenced((3, 16), np.dtype(np.float32), at_end)
    beyond = fenced.array.ctypes.data + (fenced.array.nbytes + SLACK if at_end else -4)
    wrong = in_child(lambda tell: (tell("the call"), ctypes.string_at(beyond, 4))[0])
    assert wrong == "SIGSEGV in the call"


@pytest.mark.parametrize("at_end", [True, False])
def test_a_value_written_behind_an_array_is_noticed(at_end: bool) -> None:
    fenced = Fenced((3, 5), np.dtype(np.float32), at_end)
    fenced.array[...] = 0
    assert not fenced.spoilt
    ctypes.memset(fenced.array.ctypes.data + fenced.array.nbytes, 0, 1)
    assert fenced.spoilt


@pytest.mark.parametrize("name", NETS)
def test_nothing_outside_is_touched(name: str) -> None:
    check_fenced(NETS[name])
