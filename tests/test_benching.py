"""`bench`: what is timed, in which threads, and what is said of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphprune
from benchmarks.zeros import thinned
from graphprune.errors import UsageError
from models import find
from tests.compiler.oracle import model

RESNET = find("fashion_resnet20").path


def test_bench_wants_a_baseline(tmp_path):
    with pytest.raises(UsageError, match="baseline"):
        graphprune.bench([tmp_path, RESNET])
    timings = graphprune.bench([RESNET, RESNET], seconds=0, build=False).timings
    assert [t.ratio for t in timings.values()] == [1.0]
    assert all(np.isfinite(t.median_ms) for t in timings.values())


def test_bench_tells_equal_names_apart(tmp_path):
    paths = [tmp_path / folder / "x" / "m.onnx" for folder in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(RESNET.read_bytes())
    timings = graphprune.bench(paths, seconds=0, build=False).timings
    assert list(timings) == [f"{path}, onnxruntime" for path in paths]


def test_zeros_are_compared_with_the_same_model_as_dense(tmp_path: Path) -> None:
    text = "g (float[1,64,14,14] x) => (float[1,64,14,14] y) { y = Conv (x, w) }"
    onnx.save(thinned(model(text, w=(64, 64, 1, 1)), 0.8, 4), path := str(tmp_path / "m.onnx"))
    found = graphprune.bench([path], seconds=0, threads=[1, 2])
    names = [f"{path}, onnxruntime", f"{path}, compiled", f"{path}, compiled as dense"]
    assert [*found.timings] == [f"{name}, {n}" for name in names for n in ("1 thread", "2 threads")]
    assert [t.threads for t in found.timings.values()] == [1, 2] * 3
    assert [t.ratio for name, t in found.timings.items() if "onnxruntime" in name] == [1, 1]
    assert [*found.layers] == names[1:]
    (sparse,), (dense,) = found.layers.values()
    assert (sparse.name, dense.name) == ("sparse_conv", "conv")
    assert sparse.macs == dense.macs < 0.3 * 64 * 64 * 196
    assert sparse.why.startswith("expected; dense ")
    assert found.peak is not None
    assert sparse.gflops is not None
    assert 0 < sparse.gflops < found.peak
