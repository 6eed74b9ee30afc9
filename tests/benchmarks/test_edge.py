"""Real networks on the edge: every folder alone gives the pruned model's outputs, in Node, Chromium and QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import edge
from graphprune import chromium
from models import find
from tests.compiler.oracle import need_target


@pytest.mark.slow
@pytest.mark.parametrize("name", edge.SHAPES)
def test_outputs_are_those_of_the_pruned_model(name: str, tmp_path: Path) -> None:
    model = find(name)
    for target in edge.TARGETS:
        need_target(target)
    if not chromium.browser():
        pytest.skip("needs chromium, which is not installed")
    if not model.path.exists():
        pytest.skip(f"needs {model.path.name}: `python -m models build {name}` makes it")
    found = edge.errors(model, tmp_path / "out", seeds=1)
    assert set(found) == {"wasm32, node", "wasm32, chromium", "aarch64, qemu-aarch64-static"}
    assert max(found.values()) <= edge.TOLERANCE, found
