"""Timing that can be trusted: candidates take turns in one run, medians with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np


class Timing(msgspec.Struct, frozen=True):
    """Latency of one candidate.

    Attributes:
        median_ms: milliseconds of one call.
        low_ms: first quartile.
        high_ms: third quartile.
        ratio: median over rounds of this call's time by its baseline's in the same round; below 1 is faster.
        runs: rounds counted.
        threads: threads it was allowed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    runs: int
    threads: int


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 2.0,
    threads: int | Mapping[str, int] = 1,
    least: int = 5,
    alone: Mapping[str, Callable[[float], list[float]]] | None = None,
) -> dict[str, Timing]:
    """Time the candidates in turn, round after round, so that a drifting machine hits them alike.

    Args:
        candidates: name → a call to time; the first with as many threads is the baseline of the ratios.
        seconds: time to spend, after a warm-up round.
        threads: how many each candidate is allowed, or all are.
        least: rounds to do whatever the time.
        alone: name → what measures itself for some seconds and gives the milliseconds of its calls; timed afterwards,
            with the ratio of its median to the baseline's.
    """
    for call in candidates.values():
        call()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < least or time.perf_counter() < end:
        row = []
        for call in candidates.values():
            began = time.perf_counter()
            call()
            row.append(time.perf_counter() - began)
        rounds.append(row)
    times = np.array(rounds) * 1e3
    allowed = {name: threads if isinstance(threads, int) else threads[name] for name in candidates}
    first: dict[int, int] = {}
    for k, count in enumerate(allowed.values()):
        first.setdefault(count, k)
    found = {
        name: _timing(times[:, k], float(np.median(times[:, k] / times[:, first[count]])), count)
        for k, (name, count) in enumerate(allowed.items())
    }
    for name, measure in (alone or {}).items():
        own = np.array(measure(seconds))
        found[name] = _timing(own, float(np.median(own) / np.median(times[:, 0])), 1)
    return found


def _timing(times: np.ndarray, ratio: float, threads: int) -> Timing:
    low, median, high = np.percentile(times, [25, 50, 75]).round(4).tolist()
    return Timing(median, low, high, round(ratio, 4), len(times), threads)
