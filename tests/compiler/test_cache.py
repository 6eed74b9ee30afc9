"""The cache: the same model is compiled once, another one anew, and what is old goes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.compiler import cache, compile_model, targets
from graphprune.compiler.ways import Cheapest, Dense
from tests.compiler.oracle import model

TEXT = "g (float[2,3] x) => (float[2,4] y) { y = MatMul (x, w) }"


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_again_is_copied_and_all_else_is_made(tmp_path: Path) -> None:
    kept, proto = tmp_path / "cache", model(TEXT, w=(3, 4))
    first = compile_model(proto, tmp_path / "a", cache=kept)
    assert "compile kernels" in first.seconds
    second = compile_model(proto, tmp_path / "b", cache=kept)
    assert [*second.seconds] == ["load the compiler", "look in the cache"]
    assert second.manifest == first.manifest
    assert files(tmp_path / "b") == files(tmp_path / "a")
    others = [
        {"proto": model(TEXT, seed=1, w=(3, 4))},
        {"target": replace(targets.resolve("host"), registers=8)},
        {"embed_weights": True},
        {"pick": Dense(Cheapest())},
        {"cache": None},
    ]
    for other in others:
        made = compile_model(**{"proto": proto, "folder": tmp_path / "c", "cache": kept, **other})  # type: ignore[arg-type]
        assert "compile kernels" in made.seconds, other


def test_other_sources_are_another_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.digest("a", b"b")
    assert before == cache.digest("a", b"b") != cache.digest("a", b"c")
    monkeypatch.setattr(cache, "_compiler", lambda: "newer")
    assert cache.digest("a", b"b") != before


def test_what_was_not_used_for_longest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT", 25)
    for number, name in enumerate("abc"):
        made = tmp_path / name
        made.mkdir()
        (made / "file").write_bytes(bytes(10))
        if name == "c":
            assert cache.restore(tmp_path, "a", tmp_path / "used")
        cache.store(tmp_path, name, made)
        os.utime(tmp_path / "compiled" / name, (number + 1, number + 1)) if name != "c" else None
    assert sorted(p.name for p in (tmp_path / "compiled").iterdir()) == ["a", "c"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = compile_model(model(TEXT, w=(3, 4)), tmp_path / "a", cache=tmp_path / "file")
    assert (made.folder / "manifest.json").exists()


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "/somewhere")
    assert cache.default() == Path("/somewhere")
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.default() == Path("/caches/graphprune")
