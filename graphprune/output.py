"""Writing results: everything is made beside its destination and moved into place when it is whole.

Whatever ends a run, what was there before is there still, or its successor is, whole. A process that is killed outright
leaves a folder named ``.graphprune-…`` at most, which the next run that writes there finishes or removes: a lock on it
tells whether its maker lives.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphprune.errors import OutputError

if sys.platform != "win32":
    import fcntl

# What marks a folder as an earlier result of ours, which --force may replace.
MARK = "report.json"
# How folders being filled are called; one that is complete, and only has to be moved, also bears its own inode's
# number, which nobody who packs an archive can foresee.
FILLING, READY = ".graphprune-", ".graphprune-ready-"
# A file that lists where such folders were made, for a supervisor to look after them.
journal: Path | None = None


def claim_file(path: Path, force: bool, source: Path) -> None:
    """Fail early where a file could not be put.

    Raises:
        OutputError: ``path`` is the input, or exists and ``force`` is not given.
    """
    _claim_parent(path)
    if path.exists() and path.resolve() == source.resolve():
        raise OutputError(f"{path} is the input", "choose another file with -o")
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "choose another file with -o")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", "choose another with -o, or replace it with --force")


def claim_folder(folder: Path, force: bool) -> None:
    """Fail early where a folder could not be put.

    Raises:
        OutputError: ``folder`` exists, and is no earlier result that ``force`` may replace.
    """
    _claim_parent(folder)
    if folder.exists() and not (force and (folder / MARK).is_file()):
        hint = "choose another with -o" + ("" if force else ", or replace an earlier result with --force")
        raise OutputError(f"{folder} exists already", hint)


def _claim_parent(path: Path) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent} is no folder that can be written to", "choose another place with -o")
    if "\0" in path.name or len(os.fsencode(path.name)) > 255:
        raise OutputError(f"{path.name[:40]!r} is no name for a file", "choose another with -o")


@contextmanager
def new_folder(folder: Path, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``folder`` once the block ends well, and disappears otherwise."""
    with _beside(folder) as filled:
        yield filled
        filled.chmod(0o755)
        with _uninterrupted():
            if force and folder.exists():
                _exchange(filled, folder)
            else:
                os.rename(filled, folder)


@contextmanager
def new_files(path: Path) -> Iterator[Path]:
    """A folder for ``path`` and the files that go with it; they replace those beside ``path`` once the block ends well.

    The file named like ``path`` comes last, so that it never refers to what is not there.
    """
    with _beside(path) as filled:
        yield filled
        with _uninterrupted():
            ready = path.parent / f"{READY}{filled.stat().st_ino}"
            os.rename(filled, ready)
            _move_files(ready, last=path.name)


def settle(folder: Path) -> None:
    """Finish or remove what processes that are no more left half done in ``folder``."""
    if sys.platform == "win32":
        return
    for left in folder.glob(f"{FILLING}*"):
        with suppress(OSError), _locked(left) as found:
            if found and left.name == f"{READY}{left.stat().st_ino}":
                _move_files(left)
            elif found:
                shutil.rmtree(left, ignore_errors=True)


def _move_files(ready: Path, last: str = "") -> None:
    for file in sorted(ready.iterdir(), key=lambda f: f.name == last):
        os.replace(file, ready.parent / file.name)
    ready.rmdir()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    filled = None
    try:
        settle(path.parent)
        if journal is not None:
            with journal.open("a", encoding="utf-8", errors="surrogateescape") as known:
                known.write(f"{path.parent.resolve()}\0")
        filled = Path(tempfile.mkdtemp(prefix=FILLING, dir=path.parent))
        with _locked(filled):
            yield filled
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}", "choose another place with -o") from error
    finally:
        if filled is not None:
            shutil.rmtree(filled, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process; whether nobody else does."""
    if sys.platform == "win32":
        yield True
        return
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals that ask this process to end wait for the block."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exchange(a: Path, b: Path) -> None:
    """Let two folders change places; at once where the system can do that."""
    with suppress(AttributeError, OSError):  # another system, or a file system that cannot
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if not rename(here, os.fsencode(a), here, os.fsencode(b), swap):
            return
    aside = a.with_name(a.name + "-old")
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)
