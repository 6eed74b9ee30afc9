"""Tuning: the fastest of a few ways is taken, measured once, and computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler import compile_model, targets, tune
from graphprune.compiler.tune import Tuner, measure, peak
from graphprune.compiler.ways import Cheapest, Dense, Way, Ways
from graphprune.errors import UsageError
from tests.compiler.oracle import assert_same, feeds, kernels, model, reference, thinned

HERE = targets.resolve("host")
TWICE = thinned(
    model(
        """g (float[1,16,20,20] x) => (float[1,16,20,20] y, float[1,16,20,20] z) {
            y = Conv <pads = [1, 1, 1, 1]> (x, w)
            z = Conv <pads = [1, 1, 1, 1]> (y, w)
        }""",
        w=(16, 16, 3, 3),
    ),
    0.5,
    4,
)


def test_layers_are_measured_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune import runtime

    seen = []

    def measured(ways: list[Way], target: targets.Target) -> dict[str, float]:
        seen.append([str(way) for way in ways])
        return measure(ways, target)

    monkeypatch.setattr(tune, "measure", measured)
    artefact = compile_model(TWICE, tmp_path / "a", pick=Tuner(HERE, tmp_path / "cache"))
    assert len(seen) == 1  # the same layer twice
    assert {"sparse", "Winograd"} <= {name.split()[0] for name in seen[0]}
    assert len({*seen[0]}) == len(seen[0]) <= 6
    inputs = feeds(TWICE)
    assert_same(runtime.load(tmp_path / "a")(inputs), reference(TWICE, inputs))
    again = compile_model(TWICE, tmp_path / "b", pick=Tuner(HERE, tmp_path / "cache"))
    assert len(seen) == 1
    assert again.manifest.kernels == artefact.manifest.kernels
    assert all(kernel.why.startswith("measured") for kernel in kernels(again))


def test_the_fastest_is_taken_whatever_was_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for taken in ("sparse", "Winograd"):

        def measured(ways: list[Way], target: targets.Target, taken: str = taken) -> dict[str, float]:
            return {str(way): 1.0 + (way.kind != taken) for way in ways}

        monkeypatch.setattr(tune, "measure", measured)
        found = kernels(compile_model(TWICE, tmp_path / taken, pick=Tuner(HERE)))
        assert {k.name.startswith("sparse") for k in found} == {taken == "sparse"}
        assert found[0].why.startswith("measured 1 ms; ")


def test_without_measuring_the_reason_is_what_was_expected(tmp_path: Path) -> None:
    first, second = kernels(compile_model(TWICE, tmp_path))
    assert first.why == second.why
    assert first.why.startswith("expected; ")
    assert first.why.endswith(" of its cost")
    assert {k.name for k in kernels(compile_model(TWICE, tmp_path, pick=Dense(Cheapest())))} <= {
        "conv",
        "winograd",
    }


def test_nothing_is_built_where_one_way_is_clearly_best() -> None:
    def unbuilt() -> None:
        raise AssertionError

    ways = [Way("dense", "a", 1.0, unbuilt), Way("sparse", "b", 2.0, unbuilt)]  # type: ignore[arg-type]
    assert Tuner(HERE)(Ways("layer", ways)) == (ways[0], "expected; sparse 2.00 of its cost")


def test_other_machines_cannot_be_measured_here() -> None:
    with pytest.raises(UsageError, match="wasm32 cannot be timed"):
        Tuner(targets.resolve("wasm32"))


def test_no_kernel_is_faster_than_the_peak() -> None:
    limit = peak(HERE)
    assert 1 < limit < 1000
    assert np.isfinite(limit)
