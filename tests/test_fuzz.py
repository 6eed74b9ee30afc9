"""The short form of ``python -m benchmarks.fuzz``: hostile input ends in time, in words, with nothing left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("cases", [120, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_input_shows_no_defect(cases: int) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--cases", str(cases), "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{cases:,}  cases" in done.stdout
