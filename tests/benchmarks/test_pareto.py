"""Accuracy against latency: rows that are there are kept, and what is measured is what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pareto import DENSE, Row, main, read, table


def test_rows_that_were_not_made_say_why() -> None:
    rows = [
        Row("net", "zeros", 0.5, why="zeros make it 3 ms at least"),
        Row("net", "channels", 0.5, 0.495, 0.61, error=0.4, macs=0.58, zeros=0.0),
        Row("net", DENSE, 1.0, 0.9, 0.81),
    ]
    assert table(rows).splitlines()[2:] == [
        "| 100% | not pruned | 90.0% | 81.0% | 0.0% | 100% | 0% |",
        "| 50% | channels | 49.5% | 61.0% | 40.0% | 58% | 0% |",
        "| 50% | zeros | not met: zeros make it 3 ms at least | | | | |",
    ]


@pytest.mark.slow
def test_a_real_model_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "pareto.json"

    def run(ways: list[str]) -> dict[str, Row]:
        main("fashion_resnet20", share=[0.5], way=ways, effort=0.05, seconds=1.0, rows=rows)
        return {row.way: row for row in read(rows)}

    first = run(["channels"])
    both = run(["channels", "zeros"])
    assert both["channels"] == first["channels"]
    assert both[DENSE].accuracy == pytest.approx(0.942, abs=0.003)
    for way in ("channels", "zeros"):
        assert both[way].latency <= 0.55
        assert 0.5 < both[way].accuracy < both[DENSE].accuracy
    assert both["channels"].zeros == 0
    assert both["zeros"].macs == 1
