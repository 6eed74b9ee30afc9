"""Targets of other vector widths, runnable on this machine: their kernels are tiled for fewer or smaller registers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphprune.compiler import targets


@pytest.fixture(params=[(4, 32), (8, 16)], ids=["4 lanes", "8 lanes"])
def narrow_target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    lanes, registers = request.param
    monkeypatch.setitem(
        targets.TARGETS, "narrow", lambda: replace(targets.resolve("host"), lanes=lanes, registers=registers)
    )
    return "narrow"
