"""The workflow shown to readers runs, and fails where it says so."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphprune.cli import verbs
from graphprune.errors import TargetNotReachedError

ROOT = Path(__file__).parents[1]
STEPS = re.findall(r"- run: graphprune (.*)", (ROOT / "examples" / "ci.yml").read_text("utf-8"))


@pytest.fixture
def project(monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "models" / "fashion_resnet20.onnx", "model.onnx")
    Path("graphprune.toml").write_text('target-macs = "50%"\npreset = "slimming"\n')
    return tmp_path


def test_every_step_ends_well(project):
    assert [step.split()[0] for step in STEPS] == ["doctor", "compile", "verify", "bench"]
    for step in STEPS:
        result = CliRunner().invoke(verbs.app, shlex.split(step))
        assert result.exit_code == 0, result.exception


def test_an_error_beyond_the_limit_fails_the_job_and_leaves_nothing(project):
    step = next(s for s in STEPS if s.startswith("compile")).replace("80%", "1%")
    result = CliRunner().invoke(verbs.app, shlex.split(step))
    assert isinstance(result.exception, TargetNotReachedError)
    assert not Path("build").exists()
