"""A results file: rows come back as they were, in the order of their keys, one on each line."""

from __future__ import annotations

from multiprocessing import get_context
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


def _added(file: Path, model: str) -> None:
    for k in range(20):
        results.add(file, Row(model, "zeros", k / 20))


def test_several_processes_add_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    results.write(file, [Row("a", "zeros", 0.0, why="old")])
    processes = [get_context("spawn").Process(target=_added, args=(file, model)) for model in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = results.read(file, Row)
    assert len(rows) == 60
    assert not any(row.why for row in rows)
