"""Timing: candidates take turns, ratios are against the first. The clock is one the tests turn themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from graphprune import latency
from graphprune.latency import interleave


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """Makes calls that last as many milliseconds as they are told, one after the other."""
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def make(*milliseconds: float) -> Callable[[], None]:
        coming: Iterator[float] = iter(milliseconds)

        def call() -> None:
            now[0] += next(coming) / 1e3

        return call

    return make


def test_candidates_take_turns():
    order: list[str] = []
    timings = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0, least=7)
    assert order == ["a", "b"] * 8  # one round to warm up
    assert [t.runs for t in timings.values()] == [7, 7]


def test_medians_quartiles_and_ratios_round_by_round(lasting):
    # The machine slows down by half after three rounds; the ratio of each round does not care.
    a, b = lasting(99, 2, 2, 2, 4, 4), lasting(99, 6, 6, 6, 12, 12)
    timings = interleave({"a": a, "b": b}, seconds=0, least=5, threads=3)
    assert (timings["a"].low_ms, timings["a"].median_ms, timings["a"].high_ms) == (2, 2, 4)
    assert (timings["b"].low_ms, timings["b"].median_ms, timings["b"].high_ms) == (6, 6, 12)
    assert (timings["a"].ratio, timings["b"].ratio) == (1, 3)
    assert timings["b"].threads == 3


def test_rounds_go_on_until_the_time_is_spent(lasting):
    timings = interleave({"a": lasting(*[100] * 40)}, seconds=1.95, least=1)
    assert timings["a"].runs == 20


def test_what_times_itself_is_held_against_the_baseline(lasting):
    timings = interleave({"a": lasting(*[4] * 6)}, seconds=0, least=5, alone={"b": lambda seconds: [10.0, 12.0, 50.0]})
    assert timings["b"].median_ms == 12
    assert timings["b"].ratio == 3
    assert timings["b"].runs == 3
