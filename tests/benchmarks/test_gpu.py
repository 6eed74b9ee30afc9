"""The table beside onnxruntime's CUDA provider: skipped without a graphics processor, and run on this one instead."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import typer
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


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(NET, path)
    return path


def test_everything_but_the_processor(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(gpu, "TARGET", "host")
    gpu.prepare(net, {}, tmp_path / "net")
    times, errors = gpu.measure(tmp_path / "net", 0.01)
    assert list(times) == ["onnxruntime, dense", "onnxruntime, half", "dense", "half"]
    assert set(errors) == {"dense", "half"}
    assert max(errors.values()) <= 1e-5
    filters = [onnx.load(tmp_path / "net" / name / gpu.MODEL).graph.initializer[0].dims[0] for name in gpu.VARIANTS]
    assert filters[1] <= filters[0] / 2
    monkeypatch.setattr(gpu, "compile_model", None)
    gpu.prepare(net, {}, tmp_path / "net")  # what is there is not compiled again


@pytest.mark.skipif(not cuda_present(), reason="needs an NVIDIA graphics processor")
def test_on_a_graphics_processor(net: Path, tmp_path: Path) -> None:
    if lacks := gpu.missing():
        pytest.skip(f"needs {', '.join(lacks)}")
    gpu.prepare(net, {}, tmp_path / "net")
    times, errors = gpu.measure(tmp_path / "net", 0.1)
    assert len(times) == 6
    assert max(errors[name] for name in gpu.VARIANTS) <= 1e-4
