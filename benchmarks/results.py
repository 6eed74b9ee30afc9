"""Results that a benchmark keeps between runs: a JSON file with a line for each row."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from graphprune.output import new_files


class Keyed(Protocol):
    """A row of a kind that msgspec knows."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What no two rows share."""


R = TypeVar("R")


def read(path: Path, kind: type[R]) -> list[R]:
    """The rows of a results file, none where there is no such file."""
    return msgspec.json.decode(path.read_bytes(), type=list[kind]) if path.exists() else []  # type: ignore[valid-type]


def add(path: Path, row: Keyed) -> None:
    """Put a row among those of the file, in place of the one with its key; several processes may at the same time."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # let go of where it is closed
        others = (other for other in read(path, type(row)) if other.key != row.key)
        write(path, [*others, row])
    finally:
        os.close(folder)


def write(path: Path, rows: Sequence[Keyed]) -> None:
    """Put all rows in place of those of the file, in the order of their keys."""
    with new_files(path) as beside:
        lines = b",\n".join(msgspec.json.encode(row) for row in sorted(rows, key=lambda r: r.key))
        (beside / path.name).write_bytes(b"[\n" + lines + b"\n]\n")
