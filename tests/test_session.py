"""The session that is shown to readers is what the tool prints, but for the figures."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphprune.cli import verbs

ROOT = Path(__file__).parents[1]
SESSION = (ROOT / "examples" / "session.txt").read_text("utf-8")


def shape(text: str) -> list[str]:
    """Lines with every figure as a #, and single spaces."""
    lines = (re.sub(r"\d[\d,.]*(e[+-]?\d+)?", "#", line) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def steps() -> list[tuple[str, str]]:
    """Every command of the session with what it prints."""
    parts = re.split(r"^\$ (.*)\n", SESSION, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the session was recorded on x86-64")
def test_the_session_is_true(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "fashion_resnet20.onnx", "models")
    ran = 0
    for command, printed in steps():
        program, *arguments = shlex.split(command)
        if program == "graphprune":
            result = CliRunner().invoke(verbs.app, arguments)
            assert result.exit_code == 0, result.exception
            assert shape(result.stdout) == shape(printed)
            ran += 1
        elif program == "ls":
            assert sorted(p.name for p in Path(arguments[0]).iterdir()) == sorted(printed.split())
    assert ran == 3


def test_it_fits_a_terminal():
    assert max(map(len, SESSION.splitlines())) <= 80
