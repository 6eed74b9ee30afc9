"""The verb `bench`: models beside one another, and the layers of what is compiled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import msgspec

from graphprune import runtime
from graphprune.building import cache_of, peak_of, picked
from graphprune.compiler import compile_model
from graphprune.compiler.targets import resolve
from graphprune.errors import UsageError
from graphprune.latency import Timing, interleave
from graphprune.model import Model, load
from graphprune.options import BenchOptions, takes
from graphprune.proof import Inputs as Inputs  # the signatures made of the options name it
from graphprune.proof import Runner, seeded_inputs
from graphprune.report import KernelReport
from graphprune.report.kernels import kernel_reports


class Bench(msgspec.Struct, frozen=True):
    """What ``bench`` found.

    Attributes:
        timings: by candidate; of the candidates with as many threads, the first is the baseline of the ratios.
        layers: every kernel of what is compiled, on one thread, by candidate.
        peak: what one thread reaches in registers, in units of 10⁹ floating-point operations a second; ``None`` where
            nothing was compiled.
    """

    timings: dict[str, Timing]
    layers: dict[str, list[KernelReport]] = {}
    peak: float | None = None


@takes
def bench(
    candidates: Sequence[str | os.PathLike[str]],
    *,
    seconds: float = 5.0,
    threads: Sequence[int] = (1,),
    build: bool = True,
    announce: Callable[[str], None] = lambda text: None,
    **options: Unpack[BenchOptions],
) -> Bench:
    """Time models in turn in one run, on the same inputs: in onnxruntime, compiled, and compiled as if they were dense.

    Args:
        candidates: paths of ``.onnx`` files and of folders written by ``compile``; the first must be an ONNX file.
        seconds: how long in all, without compiling.
        threads: of onnxruntime and of compiled libraries: every candidate with each of these; 0 is all there are.
        build: whether to compile the files for this machine too, and models with zeros as if they were dense.
        announce: called with the text of each step before it runs.

    Raises:
        InvalidModelError: a candidate cannot be read or does not run on this machine.
        UsageError: the first candidate is no ONNX file.
    """
    models = [Path(c) for c in candidates]
    if models[0].is_dir():
        raise UsageError("the first thing to time is the baseline, an ONNX file", "graphprune bench MODEL.onnx FOLDER")
    counts = list(dict.fromkeys(count or os.cpu_count() or 1 for count in threads))
    first = load(models[0], input_shapes=options["input_shapes"], dim_params=options["dim_params"])
    inputs = seeded_inputs(first, options["seed"])
    calls: dict[str, Callable[[], object]] = {}
    allowed: dict[str, int] = {}
    libraries: dict[str, tuple[runtime.CompiledModel, Model]] = {}

    def add(name: str, made: Callable[[int], Callable[..., object]]) -> None:
        for count in counts:
            label = name if counts == [1] else f"{name}, {count} thread{'s' * (count > 1)}"
            calls[label], allowed[label] = partial(made(count), inputs), count

    with tempfile.TemporaryDirectory() as scratch:

        def library(name: str, model: Model, folder: Path) -> None:
            libraries[name] = runtime.load(folder), model
            add(name, partial(runtime.load, folder))

        def built(name: str, model: Model, skip: bool) -> None:
            announce(f"compile {name}")
            folder = Path(scratch, str(len(libraries)))
            pick = picked(resolve("host"), options, skip)
            compile_model(model.proto(), folder, shapes=model.chosen_shapes, pick=pick, cache=cache_of(options))
            library(name, model, folder)

        for path in models:
            file = path / "model.onnx" if path.is_dir() else path
            model = load(file, input_shapes=first.input_shapes) if file.is_file() else first
            if file.is_file():
                add(f"{file}, onnxruntime", partial(_runner, model))
            if path.is_dir():
                library(f"{path}, compiled", model, path)
            elif build:
                built(f"{path}, compiled", model, True)
            found = libraries.get(f"{path}, compiled")
            if build and found and any(k.name.startswith("sparse") for k in found[0].manifest.kernels):
                built(f"{path}, compiled as dense", model, False)
        announce("time")
        timings = interleave(calls, seconds=seconds, threads=allowed)
        layers = {
            name: kernel_reports(model, compiled.manifest.kernels, compiled.profile(inputs))
            for name, (compiled, model) in libraries.items()
        }
    return Bench(timings, layers, peak_of(resolve("host")) if libraries else None)


def _runner(model: Model, threads: int) -> Runner:
    return Runner(model, optimise=True, threads=threads)
