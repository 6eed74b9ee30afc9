"""Results appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphprune.errors import OutputError
from graphprune.output import claim_file, claim_folder, new_files, new_folder


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert listing(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing(tmp_path):
    def fail(context) -> None:
        with context as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    for context in (new_folder(tmp_path / "out"), new_files(tmp_path / "out")):
        with pytest.raises(RuntimeError):
            fail(context)
    assert listing(tmp_path) == []


def test_force_replaces_a_folder_whole(tmp_path):
    for text in ("old", "new"):
        with new_folder(tmp_path / "out", force=True) as folder:
            (folder / text).write_text(text)
    assert listing(tmp_path / "out") == ["new"]


def test_files_replace_those_beside(tmp_path):
    (tmp_path / "m.onnx").write_text("old")
    (tmp_path / "other").write_text("kept")
    with new_files(tmp_path / "m.onnx") as folder:
        (folder / "m.onnx").write_text("new")
        (folder / "m.onnx.data").write_text("weights")
        assert (tmp_path / "m.onnx").read_text() == "old"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "m.onnx": "new",
        "m.onnx.data": "weights",
        "other": "kept",
    }


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    for context in (new_folder(tmp_path / "no" / "out"), new_files(tmp_path / "no" / "out")):
        with pytest.raises(OutputError, match="no/out"), context:
            pass


def test_claims(tmp_path):
    file = tmp_path / "m.onnx"
    claim_file(file, False, tmp_path / "other")
    file.write_text("")
    claim_file(file, True, tmp_path / "other")
    for force, source in ((False, tmp_path / "other"), (True, file)):
        with pytest.raises(OutputError):
            claim_file(file, force, source)
    folder = tmp_path / "out"
    claim_folder(folder, False)
    folder.mkdir()
    with pytest.raises(OutputError, match="exists already"):
        claim_folder(folder, True)  # not marked as ours
    (folder / "report.json").write_text("{}")
    claim_folder(folder, True)
    with pytest.raises(OutputError):
        claim_folder(folder, False)
    with pytest.raises(OutputError, match="no folder"):
        claim_folder(tmp_path / "no" / "out", False)
