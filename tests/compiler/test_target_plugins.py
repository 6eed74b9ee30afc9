"""Targets that other packages bring, through a distribution as pip would install it, and processors of a target."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from graphprune import execute
from graphprune.compiler import compile_model, targets
from graphprune.errors import CompileError, UsageError
from tests.compiler.oracle import assert_same, check_elsewhere, feeds, model, need_target, reference

GUIDE = Path(__file__).parents[2] / "docs" / "add-a-target.md"
Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write a module, and the metadata of a distribution that registers `TARGET` of it under a name."""

    def distribution(name: str, source: str) -> None:
        (tmp_path / "their_board.py").write_text(source)
        folder = tmp_path / "their_board-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-board\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[graphprune.targets]\n{name} = their_board:TARGET\n")
        targets._offered.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield distribution
    targets._offered.cache_clear()
    sys.modules.pop("their_board", None)


def guide() -> str:
    """The module that the guide shows."""
    shown = re.search(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert shown
    return shown[1]


def net() -> onnx.ModelProto:
    return model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=(3, 4))


def test_the_guides_target_is_listed_and_compiles(install: Install, tmp_path: Path) -> None:
    install("our-board", guide())
    assert list(targets.available()) == [*targets.TARGETS, "our-board"]
    assert "our-board" in [t.name for t in execute.survey()]
    need_target("our-board")
    artefact = check_elsewhere(net(), tmp_path / "out", "our-board")
    assert artefact.manifest.target.cpu == "cortex-a53"


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("wasm32", guide(), "comes from two places: graphprune itself and their-board"),
        ("odd", "TARGET = 3", "is no Target"),
        ("gone", "", "cannot be loaded: AttributeError"),
    ],
)
def test_what_is_no_target_is_named(install: Install, name: str, source: str, says: str) -> None:
    install(name, source)
    with pytest.raises(UsageError, match=says):
        targets.resolve(name)


def test_a_processor_must_be_one_of_the_target() -> None:
    assert targets.resolve("aarch64", "cortex-a53").cpu == "cortex-a53"
    assert targets.resolve("x86-64", "x86-64-v4").lanes == 16
    with pytest.raises(CompileError, match="'aarch64' has no processor 'cortex-a9'") as caught:
        targets.resolve("aarch64", "cortex-a9")
    assert "cortex-a72" in caught.value.hint


def test_of_several_targets_those_that_know_the_processor_take_it() -> None:
    found = targets.resolve_all(["aarch64", "wasm32"], "cortex-a53")
    assert [t.cpu for t in found.values()] == ["cortex-a53", "generic"]
    with pytest.raises(CompileError, match="has no processor"):
        targets.resolve_all(["wasm32"], "cortex-a53")


def test_a_file_per_target() -> None:
    files = {p.stem for p in Path(targets.__file__).parent.glob("*.py")} - {"__init__"}
    assert len(files) == len(targets.TARGETS)


@pytest.mark.parametrize("target", ["aarch64-android", pytest.param("armv7", marks=pytest.mark.slow)])
def test_further_machines_compute_the_same(target: str, tmp_path: Path) -> None:
    need_target(target)
    check_elsewhere(net(), tmp_path, target)


def test_weights_can_be_inside_a_library(tmp_path: Path) -> None:
    artefact = compile_model(net(), tmp_path, embed_weights=True)
    assert not (tmp_path / "weights.bin").exists()
    run = execute.execution(tmp_path).run
    assert run is not None
    assert_same(run(feeds(net())), reference(net(), feeds(net())))
    assert artefact.manifest.embedded
