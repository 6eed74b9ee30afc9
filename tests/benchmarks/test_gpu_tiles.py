"""Tiles one after another: every layer of the table in as many as it says, without a graphics processor."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import gpu_tiles
from graphprune.compiler.ways import Way, Ways


def test_ways_come_in_turn_and_no_tile_more_than_three_times() -> None:
    found = [Way("dense", f"tile {8 * tile} × 8, {parts} parts", 1.0, list) for parts in range(5) for tile in (1, 2)]  # type: ignore[arg-type]
    pick = gpu_tiles.InTurn()
    taken = [pick(Ways("layer", found))[0].loops for _ in range(7)]
    assert taken == [way.loops for way in found[:6]] + [found[0].loops]


def test_every_layer_is_there_as_often_as_it_is_timed() -> None:
    found = gpu_tiles.layers()
    assert len(found) == 29
    proto, products = found["3 × 3 stride 2, 64 → 128, 28 × 28"]
    assert len(proto.graph.node) == len(proto.graph.output) == gpu_tiles.MOST
    assert products == 128 * 28 * 28 * 64 * 9


def test_without_a_graphics_processor_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tiles, "cuda_present", lambda: False)
    app = typer.Typer()
    app.command()(gpu_tiles.main)
    assert CliRunner().invoke(app).stdout == "skipped: needs an NVIDIA graphics processor with its driver\n"
