"""Limits on memory and time of a whole run: a model from elsewhere may ask for any amount of either."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if sys.platform != "win32":
    import resource

# Whether this process exists for one run only and may be limited; ``graphprune.__main__`` says so.
supervised = False


def limit(max_memory: int | None, max_seconds: float) -> None:
    """Limit this process, if it is a supervised one: allocations fail beyond so much memory, and it ends in time.

    Args:
        max_memory: bytes of private memory; 0 is no limit, ``None`` what the machine has available.
        max_seconds: of wall time; 0 is no limit.
    """
    if not supervised or sys.platform == "win32":
        return
    memory = available() if max_memory is None else max_memory
    if memory:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process in the middle of native code, too
    signal.setitimer(signal.ITIMER_REAL, max_seconds)


def available() -> int:
    """Bytes of memory that the machine can still give; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else 0
