"""The table beside onnxruntime's CUDA provider: skipped without a graphics processor, and run on this one instead."""

from __future__ import annotations

import numpy as np
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from benchmarks import gpu
from graphprune.execute import cuda_present
from tests.compiler.oracle import model

NET = model(
    """g (float[1,8,6,6] x) => (float[1,3] y) {
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Relu (a)
        c = GlobalAveragePool (b)
        d = Flatten (c)
        y = MatMul (d, m)
    }""",
    w=(16, 8, 3, 3),
    m=(16, 3),
)


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(gpu.main)
    return app


def test_without_a_graphics_processor_it_says_what_it_needs(
    command: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "cuda_present", lambda: False)
    done = CliRunner().invoke(command)
    assert done.exit_code == 0
    assert done.stdout.startswith("skipped: needs an NVIDIA graphics processor with its driver")


def test_two_of_every_four_inputs_are_left() -> None:
    weights = {t.name: numpy_helper.to_array(t) for t in gpu.two_of_four(NET).graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in NET.graph.initializer}
    convolution = weights["w"].reshape(16, 2, 4, 9)
    assert (np.count_nonzero(convolution, axis=2) == 2).all()
    assert (np.count_nonzero(weights["m"].reshape(4, 4, 3), axis=1) == 2).all()
    for name, value in weights.items():
        assert np.isin(value, [0, *before[name].ravel()]).all()
    kept = np.abs(before["w"].reshape(16, 2, 4, 9))
    assert (np.sort(kept, axis=2)[:, :, 2] == np.where(convolution != 0, kept, np.inf).min(axis=2)).all()


def test_everything_but_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(gpu, "TARGET", "host")
    times, errors = gpu.measure(NET, {}, 0.01)
    assert list(times) == ["onnxruntime", "dense", "2:4"]
    assert set(errors) == {"dense", "2:4"}
    assert max(errors.values()) <= 1e-5


@pytest.mark.skipif(not cuda_present(), reason="needs an NVIDIA graphics processor")
def test_on_a_graphics_processor() -> None:
    if lacks := gpu.missing():
        pytest.skip(f"needs {', '.join(lacks)}")
    times, errors = gpu.measure(NET, {}, 0.1)
    assert list(times) == ["onnxruntime", "onnxruntime, TF32", "dense", "2:4"]
    assert max(errors.values()) <= 1e-4
