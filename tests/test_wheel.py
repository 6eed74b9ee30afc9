"""Wheels of compiled models: installed into an empty environment's folder, they run with numpy alone."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import graphprune
from graphprune.compiler import compile_model, targets
from graphprune.errors import UsageError
from graphprune.wheel import write_wheel
from tests.compiler.oracle import model, need

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
NET = model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=WEIGHTS)
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, fashion_small
model = fashion_small.Model(threads=2)
x = np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)
print(model({"x": x})["y"].tolist())
for wrong in ({}, {"x": x, "z": x}, {"x": x.astype(float)}, {"x": x[:1]}):
    try:
        model(wrong)
    except ValueError as error:
        print(error)
assert "graphprune" not in sys.modules
"""


@pytest.mark.parametrize("embed", [False, True])
def test_a_wheel_runs_with_numpy_alone(embed: bool, tmp_path: Path) -> None:
    compile_model(NET, tmp_path / "host", embed_weights=embed)
    wheel = write_wheel(tmp_path / "host", "fashion-small")
    assert re.fullmatch(r"fashion_small-1\.0-py3-none-\w+\.whl", wheel.name)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(site)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    first, *errors = run.stdout.splitlines()
    assert first == str(np.maximum(np.array([[1, -2, 3], [0.5, 0, -1]]) @ WEIGHTS, 0).tolist())
    assert errors == [
        "input 'x' is missing",
        "the model has no input 'z'",
        "input 'x' is float64 (2, 3), the model takes float32 (2, 3)",
        "input 'x' is float32 (1, 3), the model takes float32 (2, 3)",
    ]


def test_the_verb_writes_wheels_of_c_libraries(tmp_path: Path) -> None:
    need(targets.ZIG)
    graphprune.compile(
        NET, tmp_path / "net.graphprune", targets=["aarch64", "wasm32"], package="python", timing_seconds=0
    )
    (wheel,) = (tmp_path / "net.graphprune").glob("*/*.whl")
    assert wheel.parent.name == "aarch64"
    assert wheel.name == "net-1.0-py3-none-manylinux_2_17_aarch64.whl"
    again = wheel.read_bytes()
    assert write_wheel(wheel.parent, "net").read_bytes() == again
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("net/model.so") == (wheel.parent / "model.so").read_bytes()


def test_other_packages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown kind of package 'conda'"):
        graphprune.compile(NET, tmp_path / "out", package="conda")
    need(targets.ZIG)
    compile_model(NET, tmp_path / "wasm32", "wasm32")
    with pytest.raises(UsageError, match="'wasm32' gives nothing that Python can load"):
        write_wheel(tmp_path / "wasm32", "net")
