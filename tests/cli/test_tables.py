"""Tables fit 80 columns and show the report's figures."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import graphprune
from graphprune.cli import tables
from graphprune.latency import Timing

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"


def shown(table: object) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_summary():
    report = graphprune.prune(RESNET, ratio=0.5, preset="magnitude").report
    timings = {"original, onnxruntime": Timing(4, 3, 5, 1, 9, 1), "compiled, x86-64": Timing(1, 1, 1, 0.25, 9, 1)}
    text = shown(tables.summary(report, timings))
    assert max(map(len, text.splitlines())) <= 80
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("parameters"))
    assert row == ["parameters", "273,658", f"{report.after.parameters:,}", f"{report.kept.parameters:.1%}"]
    assert "latency, compiled, x86-64" in text
    assert "25.0%" in text


def test_inspection_tables():
    report = graphprune.inspect(RESNET).report
    text = shown(tables.groups(report)) + shown(tables.pins(report))
    assert max(map(len, text.splitlines())) <= 80
    assert "2.first.0.weight[0]" in text
    assert "graph output" in text
