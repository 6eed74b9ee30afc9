"""What times models for a latency target: onnxruntime, or a compiled library."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphprune.errors import UsageError
from graphprune.execute import Execution, execution
from graphprune.latency import interleave
from graphprune.layertimes import Profile, onnxruntime_profile
from graphprune.model import Model
from graphprune.proof import Runner, seeded_inputs

if TYPE_CHECKING:
    from graphprune.compiler.targets import Target
    from graphprune.compiler.ways import Pick

SECONDS = 1.5  # of timing original and result in turn


@dataclass(frozen=True, eq=False)
class Clock:
    """What times models.

    Attributes:
        profile: times the layers of a model.
        compare: milliseconds of the original, and the share of them that a model takes.
        skips_zeros: whether zeros make a model faster.
    """

    profile: Profile
    compare: Callable[[Model, Model], tuple[float, float]]
    skips_zeros: bool = False


def onnxruntime_clock() -> Clock:
    """onnxruntime on one thread."""

    def compare(original: Model, model: Model) -> tuple[float, float]:
        inputs = seeded_inputs(original)
        calls = {k: partial(Runner(m, optimise=True, threads=1), inputs) for k, m in enumerate((original, model))}
        timings = interleave({str(k): call for k, call in calls.items()}, seconds=SECONDS)
        return timings["0"].median_ms, timings["1"].ratio

    return Clock(onnxruntime_profile, compare)


def compiled_clock(target: Target, pick: Pick | None = None) -> Clock:
    """Compiled libraries of a target that runs here; layers that it cannot time are timed in onnxruntime.

    ``pick`` chooses their kernels; by default the cost model does.
    """

    def profile(model: Model) -> tuple[float, dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            way, nodes = _compiled(model, Path(folder), target, pick)
            if way.profile is None:
                return onnxruntime_profile(model)
            seconds = way.profile(seeded_inputs(model))
        found: dict[str, float] = {}
        for covered, spent in zip(nodes, seconds, strict=True):
            for name in covered:  # one of them multiplies; the others are no products and not asked for
                found[name] = found.get(name, 0.0) + float(spent) * 1e3
        return float(np.sum(seconds)) * 1e3, found

    originals: dict[int, tuple[tempfile.TemporaryDirectory[str], Execution]] = {}  # compiled once, kept by the clock

    def compare(original: Model, model: Model) -> tuple[float, float]:
        inputs = seeded_inputs(original)
        if id(original) not in originals:
            kept = tempfile.TemporaryDirectory()
            originals[id(original)] = kept, _compiled(original, Path(kept.name), target, pick)[0]
        first = originals[id(original)][1]
        with tempfile.TemporaryDirectory() as folder:
            ways = [first, first if model is original else _compiled(model, Path(folder), target, pick)[0]]
            if all(way.in_process for way in ways):
                calls = {str(k): partial(way.run, inputs) for k, way in enumerate(ways) if way.run}
                timings = interleave(calls, seconds=SECONDS)
                return timings["0"].median_ms, timings["1"].ratio
            times = [float(np.median(way.times(inputs, SECONDS))) for way in ways if way.times]
        return times[0], times[1] / times[0]

    return Clock(profile, compare, skips_zeros=True)


def _compiled(model: Model, folder: Path, target: Target, pick: Pick | None) -> tuple[Execution, list[tuple[str, ...]]]:
    """How the compiled model runs, and the nodes that each of its kernels computes."""
    from graphprune.compiler import compile_model

    artefact = compile_model(model.proto(), folder, target, model.chosen_shapes, pick=pick)
    way = execution(artefact.folder)
    if not (way.run and way.in_process) and not way.times:
        raise UsageError(f"{target.name} cannot be timed here: {way.by}", "a latency target needs a target that is")
    return way, [kernel.nodes for kernel in artefact.manifest.kernels]
