"""The examples run as they are, in an empty folder, and do what they say."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphprune
from graphprune.compiler import compile_model

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def call(name: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [name])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_prune(run, tmp_path):
    said = run("prune.py")
    assert "49% of the MACs" in said  # half is asked for, and met from below in steps of 8
    assert "output shape (1, 10)" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.html", "small.onnx", "small.plan.json"]


def test_own_pass(run, tmp_path):
    said = run("own_pass.py")
    assert "blend(mix=0.3)" in said
    widths = {t.dims[0] for t in onnx.load(tmp_path / "small.onnx").graph.initializer if len(t.dims) == 4}
    assert widths == {12, 24, 48}


def test_compiled(run, tmp_path):
    said = run("compiled.py")
    assert "logits (1, 10)" in said
    assert re.search(r"slowest kernel: (conv|winograd) \(3 × 3", said)
    assert (tmp_path / "small.graphprune" / "report.html").exists()


def test_sweep(run, tmp_path):
    said = run("sweep.py")
    assert "best: l1-macs-0.9" in said
    assert len(list((tmp_path / "sweep" / "points").iterdir())) == 8
    assert (tmp_path / "sweep" / "pareto.svg").exists()


@pytest.mark.slow
def test_own_data(run):
    """Real images are worth two points here; one is asked for."""
    rows = [line.rpartition(" ")[2] for line in run("own_data.py").splitlines()]
    dense, without, with_some = (float(r.rstrip("%")) for r in rows)
    assert without + 1 < with_some < dense


def test_every_example_is_tested():
    source = Path(__file__).read_text("utf-8")
    assert all(f'run("{e.name}")' in source for e in EXAMPLES.glob("*.py"))


def test_programs_with_a_model_inside(tmp_path):
    if missing := [tool for tool in ("cmake", "cc") if not shutil.which(tool)]:
        pytest.skip(f"needs {' and '.join(missing)}, not installed")
    model = tmp_path / "model"
    compile_model(
        onnx.load(EXAMPLES.parent / "models" / "fashion_resnet20.onnx"), model, shapes={"image": (1, 1, 28, 28)}
    )
    image = np.load(EXAMPLES.parent / "models" / "fashion_test_2000.npz")["images"][0].reshape(1, 1, 28, 28) / 255
    image.astype(np.float32).tofile(tmp_path / "image")
    expected = graphprune.load(model)({"image": image.astype(np.float32)})["logits"][0]
    source, build = EXAMPLES / "c", tmp_path / "build"
    for command in (["cmake", "-S", source, "-B", build, f"-DMODEL={model}"], ["cmake", "--build", build]):
        subprocess.run(command, check=True, capture_output=True)
    for program in ([build / "classify", model / "weights.bin"], [sys.executable, source / "classify.py", model]):
        said = subprocess.run([*program, tmp_path / "image"], check=True, capture_output=True, text=True).stdout
        number, score = re.fullmatch(r"class (\d+), logits (\S+)\n", said).groups()
        assert int(number) == expected.argmax()
        assert float(score) == pytest.approx(expected.max(), rel=1e-4)
        short = subprocess.run([*program, model / "manifest.json"], check=False, capture_output=True, text=True)
        assert short.returncode == 1
        assert "graphprune_run: input 0 (image) has" in short.stderr
