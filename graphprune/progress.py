"""How far a long step is, for whoever watches: the steps say it, and know nothing of terminals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Watcher = Callable[[float], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """Call ``watcher`` with the share that is done, 0 to 1, as ``track`` goes on inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def track(parts: Collection[T]) -> Iterator[T]:
    """The parts one after another, while the watcher hears how many are done; a part may track parts of its own."""
    watcher = _watcher.get()
    if watcher is None:
        yield from parts
        return
    for done, part in enumerate(parts):
        watcher(done / len(parts))
        with watched(lambda share, done=done: watcher((done + share) / len(parts))):  # type: ignore[misc]
            yield part
    watcher(1.0)
