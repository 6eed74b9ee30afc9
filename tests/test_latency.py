"""Timing: candidates take turns, ratios are against the first."""

from __future__ import annotations

import time

from graphprune.latency import interleave


def test_candidates_take_turns():
    order: list[str] = []
    timings = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0, least=7)
    assert order == ["a", "b"] * 8  # one round to warm up
    assert [t.runs for t in timings.values()] == [7, 7]


def test_ratio_and_quartiles():
    timings = interleave(
        {"a": lambda: time.sleep(0.002), "b": lambda: time.sleep(0.008)}, seconds=0, least=9, threads=3
    )
    assert timings["a"].ratio == 1
    assert 2 < timings["b"].ratio < 6
    assert all(2 <= t.low_ms <= t.median_ms <= t.high_ms for t in timings.values())
    assert timings["b"].threads == 3
