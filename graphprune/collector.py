"""Python's search for reference cycles, and when not to."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No search for garbage while a graph is built that stays.

    A search is started by every so many new objects and looks through all there are, a whole framework where one is
    loaded; a graph of some thousand nodes starts many and leaves them nothing to find.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
