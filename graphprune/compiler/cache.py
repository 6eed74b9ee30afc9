"""What is kept between runs: compiled models and the times of kernels, in one folder that may be deleted at any time.

Everything is found by a digest of all it depends on, the compiler's own sources among it, so that nothing goes stale.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

VARIABLE = "GRAPHPRUNE_CACHE_DIR"
LIMIT = 2 << 30  # bytes of compiled models, beyond which the ones not used for longest go


def default() -> Path:
    """The folder that `GRAPHPRUNE_CACHE_DIR` names, or the user's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphprune"


def digest(*parts: object) -> str:
    """A name for what depends on these parts, each bytes or something whose text says all, and on this compiler."""
    found = hashlib.blake2b(_compiler().encode(), digest_size=16)
    for part in parts:
        found.update(b"\0" + (part if isinstance(part, bytes) else repr(part).encode()))
    return found.hexdigest()


@cache
def _compiler() -> str:
    """Versions and sources that decide what comes out."""
    found = hashlib.blake2b(digest_size=16)
    for name in ("apache-tvm", "onnx", "numpy"):
        found.update(importlib.metadata.version(name).encode())
    for file in sorted(Path(__file__).parent.rglob("*")):
        if file.is_file() and file.suffix != ".pyc":
            found.update(file.relative_to(Path(__file__).parent).as_posix().encode() + file.read_bytes())
    return found.hexdigest()


def restore(cache: Path, key: str, folder: Path) -> bool:
    """Copy what was stored under `key` into `folder`; whether there was anything."""
    there = cache / "compiled" / key
    try:
        shutil.copytree(there, folder, dirs_exist_ok=True)
        os.utime(there)
    except OSError:  # not there, or being removed by another process
        return False
    return True


def store(cache: Path, key: str, folder: Path) -> None:
    """Keep a copy of `folder`, as far as there is room; a cache that cannot be written is done without."""
    if sum(f.stat().st_size for f in folder.iterdir()) > LIMIT:
        return
    try:
        (cache / "compiled").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=cache / "compiled") as beside:
            whole = shutil.copytree(folder, Path(beside) / key)
            if not (cache / "compiled" / key).exists():
                whole.rename(cache / "compiled" / key)
        _tidy(cache / "compiled")
    except OSError:
        return


def _tidy(folder: Path) -> None:
    """Remove the compiled models not used for longest, down to the limit."""
    room = LIMIT
    stored = [p for p in folder.iterdir() if not p.name.startswith(".")]
    for place in sorted(stored, key=lambda p: p.stat().st_mtime, reverse=True):
        room -= sum(f.stat().st_size for f in place.iterdir())
        if room < 0:
            shutil.rmtree(place, ignore_errors=True)
