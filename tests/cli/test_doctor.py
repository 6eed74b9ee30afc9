"""The doctor names what is missing, what to install, and whether that matters."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from typer.testing import CliRunner

from graphprune import execute
from graphprune.cli import doctor, verbs
from graphprune.errors import GraphpruneError
from graphprune.execute import TargetInfo


def check(what: str) -> doctor.Check:
    return next(c for c in doctor.examine().checks if c.what == what)


def test_this_installation_is_complete():
    found = doctor.examine()
    assert found.missing == []
    assert {"numpy", "onnx", "apache-tvm", "typer"} <= {c.what for c in found.checks}
    assert check("numpy").found == metadata.version("numpy")
    assert "providers: " in check("onnxruntime runs a model").found
    assert not check("calibrate on CUDA").needed
    assert check("compile for host").needed
    assert not check("run wasm32 here").needed


@pytest.mark.parametrize(
    ("requirement", "found"),
    [("no-such-package>=2", "not installed"), ("numpy<1", f"{metadata.version('numpy')}, needs <1")],
)
def test_a_package_that_is_missing_or_too_old(monkeypatch, requirement, found):
    monkeypatch.setattr(metadata, "requires", lambda name: [requirement, 'pytest>999; extra == "dev"'])
    (bad,) = doctor.examine().missing
    assert bad.found == found
    assert bad.install == f"pip install '{requirement}'"


def target(name: str, **given: list[str]) -> TargetInfo:
    return TargetInfo(name, "t", "c", [], given.get("missing", []), "node", given.get("runner_missing", []))


def test_targets_say_what_to_install(monkeypatch):
    found = [target("host"), target("wasm32", missing=["ziglang"], runner_missing=["node"])]
    monkeypatch.setattr(execute, "survey", lambda: found)
    assert doctor.examine().missing == []
    assert check("compile for wasm32").install == "pip install 'graphprune[edge]'"
    assert "nodejs" in check("run wasm32 here").install
    monkeypatch.setattr(execute, "survey", lambda: [target("host", missing=["ziglang"])])
    result = CliRunner().invoke(verbs.app, ["doctor", "--json"])
    assert isinstance(result.exception, GraphpruneError)
    assert result.exception.exit_code == 1
    assert result.exception.hint == "pip install 'graphprune[edge]'"
    lacks = [c for c in json.loads(result.stdout)["checks"] if c["needed"] and not c["ok"]]
    assert [c["what"] for c in lacks] == ["compile for host"]


def test_a_broken_tvm_is_told_of(monkeypatch):
    def broken() -> list[TargetInfo]:
        raise ImportError("libtvm.so")

    monkeypatch.setattr(execute, "survey", broken)
    assert "libtvm.so" in doctor.examine().missing[0].found


def test_the_table_fits(monkeypatch):
    result = CliRunner().invoke(verbs.app, ["doctor"])
    assert result.exit_code == 0
    table = result.stdout.partition(" cores, ")[0].splitlines()[:-1]
    assert max(map(len, table)) <= 80
    assert any(line.split()[:3] == ["ok", "compile", "for"] for line in table)
