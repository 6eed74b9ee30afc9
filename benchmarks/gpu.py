"""NVIDIA's graphics processors beside onnxruntime's CUDA provider: `python -m benchmarks.gpu`, or some names.

Needs such a processor with its driver, `pip install 'graphprune[cuda]'`, and an onnxruntime that has the provider
(`onnxruntime-gpu`, with NVIDIA's libraries); where one is missing, says so and ends. Every network is timed dense and
with 2:4 zeros, all in turn in one process, arrays copied there and back each time as a caller has to. onnxruntime runs
twice: in float32, as compiled models do, and with tensor cores that round to ten bits of mantissa (TF32), as it does by
default. Compiled models multiply zeros, 2:4 or not, as their report says; that row shows it.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import typer
from onnx import numpy_helper
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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
Call = Callable[[], Mapping[str, np.ndarray]]


def missing() -> list[str]:
    """What is needed and not here."""
    lacks = [] if cuda_present() else ["an NVIDIA graphics processor with its driver"]
    if PROVIDER not in onnxruntime.get_available_providers():
        lacks.append("onnxruntime with its CUDA provider (pip install onnxruntime-gpu)")
    return lacks + targets.missing(targets.resolve(TARGET))


def two_of_four(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the two smaller of every four neighbouring inputs zero, in convolutions and matrix products."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    inputs = {node.input[1]: int(node.op_type != "MatMul") for node in result.graph.node if len(node.input) > 1
              and node.op_type in ("Conv", "MatMul", "Gemm")}  # fmt: skip
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        axis = inputs.get(tensor.name, 0)
        if tensor.name not in inputs or values.ndim < 2 or values.shape[axis] % 4:
            continue
        fours = np.moveaxis(values, axis, -1).copy()
        rows = fours.reshape(-1, 4)
        np.put_along_axis(rows, np.argsort(np.abs(rows), axis=1)[:, :2], 0, axis=1)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(fours, -1, axis)), tensor.name))
    return result


VARIANTS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"dense": lambda proto: proto, "2:4": two_of_four}


def reference(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Call:
    """onnxruntime's CUDA provider on the model; it must not fall back to another."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=[(PROVIDER, dict(options))])
    if session.get_providers()[0] != PROVIDER:
        raise SystemExit(f"onnxruntime does not start its {PROVIDER}: NVIDIA's libraries are missing or do not fit")
    names = [output.name for output in session.get_outputs()]
    return lambda: dict(zip(names, session.run(None, dict(inputs)), strict=True))


def measure(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], seconds: float
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Latency of everything, onnxruntime in float32 first; and how far each variant is off, by the largest output."""
    model = load(proto, input_shapes=dict(shapes))
    inputs = seeded_inputs(model, 0)
    float32 = {"use_tf32": "0"} if PROVIDER.startswith("CUDA") else {}
    calls: dict[str, Call] = {"onnxruntime": reference(proto, inputs, float32)}
    if float32:
        calls["onnxruntime, TF32"] = reference(proto, inputs, {})
    errors = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, change in VARIANTS.items():
            changed = change(proto)
            folder = Path(scratch, name.replace(":", "-"))
            compile_model(changed, folder, TARGET, model.input_shapes)
            calls[name] = partial(runtime.load(folder), inputs)
            expected, found = reference(changed, inputs, float32)(), calls[name]()
            errors[name] = max(float(np.abs(found[k] - v).max() / np.abs(v).max()) for k, v in expected.items())
        return interleave(calls, seconds=seconds), errors


def card() -> str:
    """The processor's name, and its driver's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all that are there by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each network.")] = 10.0,
) -> None:
    """Print the table; the exit code is 1 where an output is off by more than the tolerance."""
    if lacks := missing():
        print(f"skipped: needs {', and '.join(lacks)}")
        return
    console = Console(width=140)
    title = f"{card()}; onnxruntime {onnxruntime.__version__}"
    table = Table("", "", "latency", "speed-up", "error", box=SIMPLE_HEAD, title=title)
    worst = 0.0
    for name in names or [name for name in NETWORKS if find(name).path.exists()]:
        times, errors = measure(onnx.load(find(name).path), SHAPES.get(name, {}), seconds)
        for label, t in times.items():
            spread = f"{t.median_ms:.2f} ms ({t.low_ms:.2f} to {t.high_ms:.2f}, {t.runs} runs)"
            error = f"{errors[label]:.0e}" if label in errors else ""
            table.add_row("" if label != "onnxruntime" else name, label, spread, f"{1 / t.ratio:.2f}", error)
        worst = max(worst, *errors.values())
    console.print(table)
    raise typer.Exit(int(worst > COMPILED_RTOL))


if __name__ == "__main__":
    typer.run(main)
