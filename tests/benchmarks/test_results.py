"""A results file: rows come back as they were, in the order of their keys, one on each line."""

from __future__ import annotations

from pathlib import Path

from benchmarks import results
from benchmarks.pareto import Row


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert results.read(file, Row) == []
    rows = [Row("net", "zeros", 0.5, why="zeros do not do"), Row("net", "both", 0.5, 0.48), Row("a", "both", 0.6)]
    results.write(file, rows)
    assert results.read(file, Row) == [rows[2], rows[1], rows[0]]
    assert [line.count('"model"') for line in file.read_text().splitlines()] == [0, 1, 1, 1, 0]
    results.write(file, rows[:1])
    assert results.read(file, Row) == rows[:1]
