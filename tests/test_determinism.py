"""The same input, options and seed give the same bytes, in other processes with other hash seeds and thread counts.

What differs by design: in ``report.json`` and ``report.html`` timings, and the command where it differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"
SMALL = f"""<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] image) => (float[1,4,8,8] y)
<float[16,3,1,1] w1 = {{{", ".join(str(k % 7 - 3) for k in range(48))}}},
 float[4,16,1,1] w2 = {{{", ".join(str(k % 5 - 2) for k in range(64))}}}>
{{ a = Conv(image, w1)  b = Relu(a)  y = Conv(b, w2) }}"""
SURROUNDINGS = [("1", "1"), ("2", "2")]  # hash seed, threads of linear algebra
TIMED = {"peak", "seconds", "latency", "calls"}


def twice(tmp_path: Path, *arguments: str) -> list[Path]:
    """Two folders in which the same command ran."""
    folders = []
    for hashing, threads in SURROUNDINGS:
        folder = tmp_path / hashing
        folder.mkdir()
        surroundings = {"PYTHONHASHSEED": hashing, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-m", "graphprune", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | surroundings, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        folders.append(folder)
    return folders


def contents(folder: Path) -> dict[str, Any]:
    """The bytes of every file by name, less what is timed."""
    found: dict[str, Any] = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name, data in found.items():
        if name.endswith("report.json"):
            found[name] = untimed(json.loads(data))
    return {name: data for name, data in found.items() if not name.endswith("report.html")}


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(v) for key, v in value.items() if key not in TIMED}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def test_pruning(tmp_path):
    first, second = twice(
        tmp_path, "prune", str(RESNET), "--target-macs", "60%", "--effort", "0.1", "-o", "s.onnx", "-q"
    )
    assert sorted(contents(first)) == ["s.onnx", "s.plan.json"]
    assert contents(first) == contents(second)


def test_compiling(tmp_path):
    onnx.save(onnx.parser.parse_model(SMALL), tmp_path / "m.onnx")
    options = ["--ratio", "50%", "-o", "out", "-q", "--no-cache"]
    first, second = twice(tmp_path, "compile", str(tmp_path / "m.onnx"), *options)
    assert "out/model.onnx" in contents(first)
    assert len(contents(first)) >= 8
    assert contents(first) == contents(second)
