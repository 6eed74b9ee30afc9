"""NVIDIA's graphics processors beside onnxruntime's CUDA provider: `python -m benchmarks.gpu`, or some names.

Needs such a processor with its driver, `pip install 'graphprune[cuda]'`, and an onnxruntime that has the provider
(`onnxruntime-gpu`, with NVIDIA's libraries); where one is missing, says so and ends. With `--folder` what is compiled
is kept there and not compiled again, and `--compile-only` stops before anything is timed: so a machine without a
graphics processor compiles, and one without TVM measures.

Every network is timed dense and with half its multiply-accumulates, all in turn in one process, arrays copied there
and back each time as a caller has to. The channels with the smallest weights go (`--preset l1`): latency does not
depend on which. onnxruntime runs twice: in float32, as compiled models do, and with tensor cores that round to ten
bits of mantissa (TF32), as it does by default.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import graphprune
from benchmarks.edge import SHAPES
from graphprune import runtime
from graphprune.compiler import compile_model, targets
from graphprune.execute import cuda_present
from graphprune.latency import Timing, interleave
from graphprune.model import load
from graphprune.proof import COMPILED_RTOL, seeded_inputs
from models import find

PROVIDER = "CUDAExecutionProvider"
TARGET = "cuda"
NETWORKS = ["mobilenet_v1", "resnet18", "resnet50", "efficientnet_lite0", "minilm"]
VARIANTS = {"dense": 1.0, "half": 0.5}  # share of multiply-accumulates kept
MODEL, INPUTS, COMPILED = "model.onnx", "inputs.npz", "compiled"
Call = Callable[[], Mapping[str, np.ndarray]]


def missing() -> list[str]:
    """What measuring needs and is not here."""
    lacks = [] if cuda_present() else ["an NVIDIA graphics processor with its driver"]
    if PROVIDER not in onnxruntime.get_available_providers():
        lacks.append("onnxruntime with its CUDA provider (pip install onnxruntime-gpu)")
    return lacks


def prepare(path: Path, shapes: Mapping[str, tuple[int, ...]], folder: Path, mcpu: str = "") -> None:
    """The network at `path` in every variant, compiled, and inputs for all, in `folder`; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    original = load(path, input_shapes=dict(shapes))
    np.savez(folder / INPUTS, **seeded_inputs(original, 0))  # type: ignore[arg-type]
    for name, kept in VARIANTS.items():
        own = folder / name
        if (own / COMPILED).exists():
            continue
        own.mkdir(exist_ok=True)
        model = original
        if kept < 1:
            model = graphprune.prune(path, preset="l1", target_macs=kept, input_shapes=dict(shapes)).model
        proto = model.proto()
        compile_model(proto, own / COMPILED, targets.resolve(TARGET, mcpu), model.input_shapes)
        (own / MODEL).write_bytes(proto.SerializeToString())


def reference(model: Path, inputs: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Call:
    """onnxruntime's CUDA provider on the model; it must not fall back to another."""
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of every node that it leaves to the processor
    session = onnxruntime.InferenceSession(model, quiet, providers=[(PROVIDER, dict(options))])
    if session.get_providers()[0] != PROVIDER:
        raise SystemExit(f"onnxruntime does not start its {PROVIDER}: NVIDIA's libraries are missing or do not fit")
    names = [output.name for output in session.get_outputs()]
    return lambda: dict(zip(names, session.run(None, dict(inputs)), strict=True))


def measure(folder: Path, seconds: float) -> tuple[dict[str, Timing], dict[str, float]]:
    """Latency of everything, onnxruntime in float32 first; and how far off all else is, by the largest output."""
    inputs = dict(np.load(folder / INPUTS))
    float32 = {"use_tf32": "0"} if PROVIDER.startswith("CUDA") else {}
    calls: dict[str, Call] = {}
    errors = {}
    for name in VARIANTS:
        calls[f"onnxruntime, {name}"] = reference(folder / name / MODEL, inputs, float32)
        if float32:
            calls[f"onnxruntime, {name}, TF32"] = reference(folder / name / MODEL, inputs, {})
    for name in VARIANTS:
        calls[name] = partial(runtime.load(folder / name / COMPILED), inputs)
        expected = calls[f"onnxruntime, {name}"]()
        for label in {name, f"onnxruntime, {name}, TF32"} & set(calls):
            found = calls[label]()
            errors[label] = max(float(np.abs(found[k] - v).max() / np.abs(v).max()) for k, v in expected.items())
    return interleave(calls, seconds=seconds), errors


def card() -> str:
    """The processor's name, and its driver's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all that are there by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each network.")] = 10.0,
    batch: Annotated[int, typer.Option(help="Images or texts at once, where a model leaves it open.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="Where what is compiled is kept.")] = None,
    compile_only: Annotated[bool, typer.Option(help="Compile into the folder and stop.")] = False,
    mcpu: Annotated[str, typer.Option(help="The only generation to compile for, such as sm_90.")] = "",
) -> None:
    """Print the table; the exit code is 1 where an output is off by more than the tolerance."""
    if lacks := [] if compile_only else missing():
        print(f"skipped: needs {', and '.join(lacks)}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        kept = folder or Path(scratch)
        found = [entry.name for entry in kept.iterdir()] if kept.is_dir() else []
        for name in names or found or [name for name in NETWORKS if find(name).path.exists()]:
            if name not in found and (lacks := targets.missing(targets.resolve(TARGET))):
                raise SystemExit(f"compiling {name} needs {', and '.join(lacks)}")
            if name not in found:
                shapes = {key: (batch, *shape[1:]) for key, shape in SHAPES.get(name, {}).items()}
                prepare(find(name).path, shapes, kept / name, mcpu)
        if compile_only:
            return
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        raise typer.Exit(_print(kept, names or sorted(entry.name for entry in kept.iterdir()), seconds))


def _print(folder: Path, names: list[str], seconds: float) -> int:
    title = f"{card()}; onnxruntime {onnxruntime.__version__}"
    table = Table("", "input", "", "latency", "speed-up", "error", box=SIMPLE_HEAD, title=title)
    worst = 0.0
    for name in names:
        times, errors = measure(folder / name, seconds)
        shape = " × ".join(map(str, next(iter(np.load(folder / name / INPUTS).values())).shape))
        for label, t in times.items():
            spread = f"{t.median_ms:.3f} ms ({t.low_ms:.3f} to {t.high_ms:.3f}, {t.runs} runs)"
            error = f"{errors[label]:.0e}" if label in errors else ""
            first = label == next(iter(times))
            table.add_row(*((name, shape) if first else ("", "")), label, spread, f"{1 / t.ratio:.2f}", error)
        worst = max(worst, *(errors[label] for label in VARIANTS))
    Console(width=140).print(table)
    return int(worst > COMPILED_RTOL["float32"])


if __name__ == "__main__":
    typer.run(main)
