"""WebAssembly beside onnxruntime-web: `python -m benchmarks.web`, or `… mobilenet_v1` for one network.

Size, load to first result, and latency in Node, one thread, the same random input, all in turn in one process (loading:
a fresh process each). Dense, and with 70 % of the weights zero in random blocks of 4 × 1. `npm` fetches onnxruntime-web
into `models/cache/npm`. Figures are medians, with the quartiles of latency.
"""

from __future__ import annotations

import json
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

from benchmarks.zeros import thinned
from graphprune.compiler import compile_model
from graphprune.model import load
from models import find
from models.zoo import CACHE

ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"
DRIVER = Path(__file__).with_suffix(".mjs")
NETWORKS = ["mobilenet_v1", "resnet18", "efficientnet_lite0"]
VARIANTS = {"dense": 0.0, "70 % zeros": 0.7}
LOADS = 3  # fresh processes to load in


def onnxruntime_web() -> Path:
    """The folder of onnxruntime-web's modules, fetched if need be."""
    folder = CACHE / "npm"
    if not (folder / "node_modules" / "onnxruntime-web").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), ONNXRUNTIME_WEB]
        subprocess.run(command, check=True)
    return folder / "node_modules" / "onnxruntime-web" / "dist"


def node(flags: list[str], *arguments: object) -> Any:
    """What the driver prints."""
    command = ["node", *flags, str(DRIVER), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(name: str, seconds: float, flags: list[str], table: Table) -> None:
    """Add the rows of one network."""
    dist = onnxruntime_web()
    proto = onnx.load(find(name).path)
    (value,) = load(proto).input_shapes.items()
    shape = ",".join(map(str, value[1]))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model.onnx")
        onnx.save(proto, file)
        folders = {}
        for variant, share in VARIANTS.items():
            folders[variant] = Path(scratch, variant.replace(" % ", "-"))
            compile_model(thinned(proto, share, 4) if share else proto, folders[variant], "wasm32", dict([value]))
        given = (seconds, value[0], shape, dist, file)
        found = node(flags, "run", *given, *folders.values())
        firsts: dict[str, list[float]] = {key: [] for key in ("ort", *folders)}
        for _ in range(LOADS):
            for key, values in firsts.items():
                values.append(node(flags, "first", *given, *([] if key == "ort" else [folders[key]])))
        sizes = {"ort": (dist / "ort-wasm-simd-threaded.wasm").stat().st_size}
        sizes |= {key: (folder / "model.wasm").stat().st_size for key, folder in folders.items()}
        dense, reference = (np.array(found["outputs"][k]) for k in (str(folders["dense"]), "ort"))
    error = np.abs(dense - reference).max() / np.abs(reference).max()
    for key in firsts:
        times = found["times"][key if key == "ort" else str(folders[key])]
        low, middle, high = statistics.quantiles(times, n=4)
        label = "onnxruntime-web" if key == "ort" else key
        table.add_row(
            name if key == "ort" else "",
            label,
            f"{sizes[key] / 1e3:,.0f} kB",
            f"{statistics.median(firsts[key]):,.0f} ms",
            f"{middle:.1f} ms ({low:.1f} to {high:.1f}, {len(times)} runs)",
            "" if key == "ort" else f"{statistics.median(found['times']['ort']) / middle:.2f}",
            f"{error:.0e}" if key == "dense" else "",
        )


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all three by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each network.")] = 20.0,
    flag: Annotated[list[str], typer.Option(help="For Node, e.g. --experimental-wasm-relaxed-simd.")] = [],  # noqa: B006
) -> None:
    """Print the table."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    title = f"Node {version} {' '.join(flag)}, one thread, {ONNXRUNTIME_WEB}"
    table = Table("", "", "code", "load to first result", "latency", "speed-up", "error", box=SIMPLE_HEAD, title=title)
    for name in names or NETWORKS:
        measure(name, seconds, flag, table)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
