"""WebAssembly beside onnxruntime-web: `python -m benchmarks.web`, or `… mobilenet_v1` for one network.

Size, load to first result, and latency in Node, one thread, the same random input, all in turn in one process (loading:
a fresh process each). Dense, and with 70 % of the weights zero in random blocks of 4 × 1. `npm` fetches onnxruntime-web
into `models/cache/npm`. Figures are medians, with the quartiles of latency. `--tensorflow PYTHON` adds LiteRT.js, whose
file is made of the same network by a Python that has tensorflow and onnx (`tflite.py` beside this file).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import graphprune
from benchmarks.zeros import thinned
from graphprune.compiler import compile_model
from graphprune.model import load
from models import find
from models.zoo import CACHE

ONNXRUNTIME_WEB, LITERT = "onnxruntime-web@1.30.0", "@litertjs/core@2.5.3"
DRIVER = Path(__file__).with_suffix(".mjs")
NETWORKS = ["mobilenet_v1", "resnet18", "efficientnet_lite0"]
VARIANTS = {"dense": 0.0, "70 % zeros": 0.7}
LOADS = 3  # fresh processes to load in


def fetched(package: str) -> Path:
    """The folder of a package of npm's, fetched if need be."""
    folder = CACHE / "npm"
    found = folder / "node_modules" / package.rpartition("@")[0]
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), package]
        subprocess.run(command, check=True)
    return found


def onnxruntime_web() -> Path:
    """The folder of onnxruntime-web's modules."""
    return fetched(ONNXRUNTIME_WEB) / "dist"


def litert() -> Path:
    """The folder of LiteRT.js."""
    return fetched(LITERT)


def node(flags: list[str], *arguments: object) -> Any:
    """What the driver prints."""
    command = ["node", *flags, str(DRIVER), *map(str, arguments)]
    environment = {**os.environ, "LITERT": str(litert())} if any(".tflite" in str(a) for a in arguments) else None
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def tflite(proto: onnx.ModelProto, tensorflow: Path, scratch: Path) -> Path:
    """The network as a file for LiteRT.js, by a Python that has tensorflow and onnx."""
    result = graphprune.prune(proto, passes="fold_shapes, fold_constants, fold_batchnorm, clean")
    onnx.save(result.model.proto(), scratch / "folded.onnx")
    made = scratch / "model.tflite"
    command = [tensorflow, Path(__file__).with_name("tflite.py"), scratch / "folded.onnx", made]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return made


def measure(name: str, seconds: float, flags: list[str], table: Table, tensorflow: Path | None = None) -> None:
    """Add the rows of one network."""
    dist = onnxruntime_web()
    proto = onnx.load(find(name).path)
    (value,) = load(proto).input_shapes.items()
    shape = ",".join(map(str, value[1]))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model.onnx")
        onnx.save(proto, file)
        ways, code = {"onnxruntime-web": "ort"}, {"onnxruntime-web": dist / "ort-wasm-simd-threaded.wasm"}
        if tensorflow:
            ways["LiteRT.js"] = str(tflite(proto, tensorflow, Path(scratch)))
            code["LiteRT.js"] = litert() / "wasm" / "litert_wasm_internal.wasm"
        for variant, share in VARIANTS.items():
            folder = Path(scratch, variant.replace(" % ", "-"))
            compile_model(thinned(proto, share, 4) if share else proto, folder, "wasm32", dict([value]))
            ways[variant], code[variant] = str(folder), folder / "model.wasm"
        given = (seconds, value[0], shape, dist, file)
        found = node(flags, "run", *given, *ways.values())
        firsts: dict[str, list[float]] = {label: [] for label in ways}
        for _ in range(LOADS):
            for label, values in firsts.items():
                values.append(node(flags, "first", *given, ways[label]))
        sizes = {label: path.stat().st_size for label, path in code.items()}
    reference = np.array(found["outputs"]["ort"])
    for label, way in ways.items():
        times = found["times"][way]
        low, middle, high = statistics.quantiles(times, n=4)
        error = np.abs(np.array(found["outputs"][way]) - reference).max() / np.abs(reference).max()
        table.add_row(
            name if way == "ort" else "",
            label,
            f"{sizes[label] / 1e3:,.0f} kB",
            f"{statistics.median(firsts[label]):,.0f} ms",
            f"{middle:.1f} ms ({low:.1f} to {high:.1f}, {len(times)} runs)",
            "" if way == "ort" else f"{statistics.median(found['times']['ort']) / middle:.2f}",
            f"{error:.0e}" if label in ("LiteRT.js", "dense") else "",
        )


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all three by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each network.")] = 20.0,
    flag: Annotated[list[str], typer.Option(help="For Node, e.g. --experimental-wasm-relaxed-simd.")] = [],  # noqa: B006
    tensorflow: Annotated[Path | None, typer.Option(help="A Python with tensorflow and onnx, for LiteRT.js.")] = None,
) -> None:
    """Print the table."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    title = f"Node {version} {' '.join(flag)}, one thread, {ONNXRUNTIME_WEB}"
    table = Table("", "", "code", "load to first result", "latency", "speed-up", "error", box=SIMPLE_HEAD, title=title)
    for name in names or NETWORKS:
        measure(name, seconds, flag, table, tensorflow)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
