"""No kernel reads or writes beyond the arrays it is given, which end, or begin, where memory may not be touched."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphprune import runtime
from graphprune.compiler import compile_model
from tests.compiler.oracle import assert_same, feeds, model, reference

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect and fork")


def fenced(shape: tuple[int, ...], dtype: np.dtype, at_end: bool) -> np.ndarray:
    """An array between two pages that end the process when they are touched, next to the last or the first."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    inside = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, inside + 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for fence in (start, start + mmap.PAGESIZE + inside):
        assert protect(fence, mmap.PAGESIZE, 0) == 0
    offset = mmap.PAGESIZE + (inside - size if at_end else 0)
    return np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)


def run_fenced(folder: Path, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], at_end: bool) -> int:
    """The status of a process that runs the compiled model on fenced arrays and compares."""
    child = os.fork()
    if not child:
        code = 1
        try:
            compiled = runtime.load(folder)
            given, made = [], {}
            for value in compiled.manifest.inputs:
                given.append(fenced(value.shape, np.dtype(value.dtype), at_end))
                given[-1][...] = inputs[value.name]
            for value in compiled.manifest.outputs:
                made[value.name] = fenced(value.shape, np.dtype(value.dtype), at_end)
            pointers = [(ctypes.c_void_p * len(a))(*(x.ctypes.data for x in a)) for a in (given, [*made.values()])]
            assert compiled._library.graphprune_run(compiled._handle, *pointers) == 0
            assert_same(made, expected)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


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
    "mean over 7 x 7": model("net (float[2,5,7,7] x) => (float[2,5,1,1] y) { y = GlobalAveragePool(x) }"),
}


@pytest.mark.parametrize("at_end", [True, False])
def test_a_value_outside_ends_the_process(at_end: bool) -> None:
    child = os.fork()
    if not child:
        faulthandler.disable()  # what follows is meant to happen
        array = fenced((3, 5), np.dtype(np.float32), at_end)
        ctypes.string_at(array.ctypes.data + (array.nbytes if at_end else -4), 4)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV


@pytest.mark.parametrize("name", NETS)
def test_nothing_outside_is_touched(name: str, tmp_path: Path) -> None:
    compile_model(NETS[name], tmp_path / "m", "host")
    inputs = feeds(NETS[name])
    expected = reference(NETS[name], inputs)
    for at_end in (True, False):
        status = run_fenced(tmp_path / "m", inputs, expected, at_end)
        assert status == 0, f"{'after' if at_end else 'before'} an array: signal {os.WTERMSIG(status)}"
