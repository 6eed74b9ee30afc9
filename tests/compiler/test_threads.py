"""Threads: the same bits as without, for every kind of kernel, run after run; and a pool that ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune import runtime
from graphprune.compiler import compile_model
from tests.compiler.oracle import feeds, model

TEXT = """g (float[1,8,15,15] x) => (float[1,4,9] y, float[1,24,5,5] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (a)
    d = Conv <group = 24, pads = [1, 1, 1, 1], strides = [3, 3]> (r, depthwise)
    z = Sigmoid (d)
    p = MaxPool <kernel_shape = [5, 5], strides = [5, 5]> (r)
    s = Reshape (p, shape)
    m = MatMul (s, matrix)
    y = Softmax <axis = -1> (m)
}"""
WEIGHTS = {"w": (24, 8, 3, 3), "b": (24,), "depthwise": (24, 1, 3, 3), "matrix": (54, 9)}


@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_same_bits(zeros: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=s).astype(np.float32) * (rng.random(s) >= zeros) for n, s in WEIGHTS.items()}
    proto = model(TEXT, shape=np.array([1, 4, 54]), **weights)
    compile_model(proto, tmp_path)
    alone = runtime.load(tmp_path)
    for threads in (2, 5):
        together = runtime.load(tmp_path, threads)
        assert together.threads == threads
        for seed in range(20):
            inputs = feeds(proto, None, seed)
            expected, found = alone(inputs), together(inputs)
            for name, value in expected.items():
                assert np.array_equal(found[name], value), (threads, seed, name)


def test_the_threads_end_with_the_model(tmp_path: Path) -> None:
    compile_model(model("g (float[4,8] x) => (float[4,3] y) { y = MatMul (x, w) }", w=(8, 3)), tmp_path)
    task = Path("/proc/self/task")
    if not task.exists():
        pytest.skip("needs /proc to count threads")
    before = len(list(task.iterdir()))
    loaded = runtime.load(tmp_path, 3)
    assert len(list(task.iterdir())) == before + 2
    del loaded
    assert len(list(task.iterdir())) == before
