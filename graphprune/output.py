"""Writing results: everything is made beside its destination and moved into place when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphprune.errors import OutputError

# What marks a folder as an earlier result of ours, which --force may replace.
MARK = "report.json"


def claim_file(path: Path, force: bool, source: Path) -> None:
    """Fail early where a file could not be put.

    Raises:
        OutputError: ``path`` is the input, or exists and ``force`` is not given.
    """
    if path.exists() and path.resolve() == source.resolve():
        raise OutputError(f"{path} is the input", "choose another file with -o")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", "choose another with -o, or replace it with --force")
    _claim_parent(path)


def claim_folder(folder: Path, force: bool) -> None:
    """Fail early where a folder could not be put.

    Raises:
        OutputError: ``folder`` exists, and is no earlier result that ``force`` may replace.
    """
    if folder.exists() and not (force and (folder / MARK).is_file()):
        hint = "choose another with -o" + ("" if force else ", or replace an earlier result with --force")
        raise OutputError(f"{folder} exists already", hint)
    _claim_parent(folder)


def _claim_parent(path: Path) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent} is no folder that can be written to", "choose another place with -o")


@contextmanager
def new_folder(folder: Path, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``folder`` once the block ends well, and disappears otherwise."""
    with _beside(folder) as filled:
        yield filled
        filled.chmod(0o755)
        if force and folder.exists():
            shutil.rmtree(folder)
        os.rename(filled, folder)


@contextmanager
def new_files(path: Path) -> Iterator[Path]:
    """A folder for ``path`` and the files that go with it; they replace those beside ``path`` once the block ends well.

    The file named like ``path`` comes last, so that it never refers to what is not there.
    """
    with _beside(path) as filled:
        yield filled
        for file in sorted(filled.iterdir(), key=lambda f: f.name == path.name):
            os.replace(file, path.parent / file.name)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    filled = None
    try:
        filled = Path(tempfile.mkdtemp(prefix=".graphprune-", dir=path.parent))
        yield filled
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}", "choose another place with -o") from error
    finally:
        if filled is not None:
            shutil.rmtree(filled, ignore_errors=True)
