"""Artefacts of other machines: what runs them, what the report says where nothing does, and the list of targets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from typer.testing import CliRunner

import graphprune
from graphprune import api, execute
from graphprune.cli import tables, verbs
from graphprune.compiler import compile_model, targets
from graphprune.errors import CompileError, UsageError
from graphprune.report import html
from tests.compiler.oracle import model, need, need_target

ELSEWHERE = {"wasm32": "node", "aarch64": "qemu-aarch64-static"}


def net() -> onnx.ModelProto:
    return model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=(3, 4))


def shown(table: object) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    return " ".join(console.export_text().split())


@pytest.mark.parametrize(("target", "tool"), ELSEWHERE.items())
def test_the_report_says_what_running_needs(
    target: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(targets.ZIG)
    if target == targets.machine():
        pytest.skip(f"{target} is this machine")
    monkeypatch.setattr(execute.shutil, "which", lambda _: None)
    result = api.compile(net(), tmp_path / "out", targets=[target], timing_seconds=0.01)
    (found,) = result.report.targets
    assert (found.error, found.tolerance, found.by) == (None, None, f"not run here: needs {tool}")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["targets"][0]["by"] == found.by
    assert found.by in shown(tables.summary(result.report, result.report.latency))
    assert found.by in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert list(result.report.latency) == ["original, onnxruntime", "pruned, onnxruntime"]


@pytest.mark.parametrize(("target", "tool"), ELSEWHERE.items())
def test_what_can_be_run_is_compared(target: str, tool: str, tmp_path: Path) -> None:
    need_target(target)
    result = api.compile(net(), tmp_path / "out", targets=["host", target], timing_seconds=0.01)
    here, there = result.report.targets
    assert (here.name, here.by) == (targets.machine(), execute.HERE)
    assert (there.name, there.by) == (target, tool)
    assert there.error is not None
    assert there.error <= 1e-4
    alone = "compiled, wasm32 in node, timed alone"
    assert (alone in result.report.latency) == (target == "wasm32")
    assert graphprune.load(tmp_path / "out")({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 4)
    assert f"Compared with onnxruntime by {tool}" in html.render(result.report)


def test_nothing_is_pruned_for_a_target_that_cannot_be_built(tmp_path: Path) -> None:
    steps: list[str] = []
    for wrong, error in ((["vax"], CompileError), (["host", "host"], UsageError)):
        with pytest.raises(error):
            api.compile(net(), tmp_path / "out", targets=wrong, announce=steps.append)
    assert not steps
    assert not (tmp_path / "out").exists()


def test_an_artefact_that_crashes_is_an_error(tmp_path: Path) -> None:
    need(targets.ZIG, "node")
    compile_model(net(), tmp_path, "wasm32")
    (tmp_path / "model.wasm").write_bytes(b"\0asm\1\0\0\0")
    run = execute.execution(tmp_path).run
    assert run is not None
    with pytest.raises(CompileError, match="node failed: TypeError"):
        run({"x": np.zeros((2, 3), np.float32)})


def test_a_library_for_another_processor_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_model(net(), tmp_path)

    def refuse(folder: Path) -> None:
        raise execute.runtime.UnsupportedProcessorError(f"{folder} was compiled for another")

    monkeypatch.setattr(execute.runtime, "load", refuse)
    way = execute.execution(tmp_path)
    assert way.run is None
    assert way.by.startswith("not run here: ")


def test_the_list_of_targets_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute.shutil, "which", lambda _: None)
    monkeypatch.setattr(execute.importlib.util, "find_spec", lambda _: None)
    text = shown(tables.targets(execute.survey()))
    for name in targets.TARGETS:
        assert name in text
    assert "wasm32-unknown-unknown needs ziglang needs node" in text


def test_the_command_lists_targets() -> None:
    done = CliRunner().invoke(verbs.app, ["targets", "--json"])
    assert done.exit_code == 0
    found = {t["name"]: t for t in json.loads(done.stdout)}
    assert list(found) == list(targets.TARGETS)
    assert found["wasm32"]["runner"] == "node"
    assert CliRunner().invoke(verbs.app, ["targets"]).exit_code == 0
