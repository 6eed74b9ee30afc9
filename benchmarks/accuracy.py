"""Accuracy against MACs, without data, labels or training: `python -m benchmarks.accuracy [MODEL ...]`.

Every preset prunes the same models to the same share of MACs; accuracy is on the labelled items of the zoo, which
pruning never sees. The share that a model really ends at is below each accuracy where it is not the target.

Settings of the default were chosen on one half of the photographs (`choice`), a fixed draw; the other half has only
been reported on.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import graphprune
from graphprune.errors import GraphpruneError
from models import find
from models.zoo import Items, onnxruntime_run

PRESETS = ["obs", "magnitude", "l1", "slimming", "random"]
TARGETS = {
    "fashion_resnet20": [0.7, 0.5, 0.35, 0.25],
    "fashion_mobilenet": [0.7, 0.5, 0.35, 0.25],
    "fashion_densenet": [0.7, 0.5, 0.35, 0.25],
    "efficientnet_lite0": [0.8, 0.7, 0.6, 0.5],
}
CHOSEN_ON = {"efficientnet_lite0"}  # models on half of whose items settings were chosen


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all that are there by default.")] = None,
    preset: Annotated[list[str], typer.Option(help="Presets to compare; repeatable.")] = PRESETS,
    round_to: Annotated[int, typer.Option(help="Widths are multiples of this.")] = 8,
    effort: Annotated[float, typer.Option(help="Of the default preset.")] = 1.0,
) -> None:
    """Print a table for each model."""
    for name in names or [n for n in TARGETS if find(n).path.exists()]:
        table(name, preset, round_to, effort)


def table(name: str, presets: list[str], round_to: int, effort: float = 1.0) -> None:
    """Prune one model by every preset to every target, and print its accuracies."""
    console, model = Console(), find(name)
    items = model.items()
    parts = halves(items) if name in CHOSEN_ON else {"": items}
    dense = model.evaluate(onnxruntime_run(model.path), items)[0]
    output = Table("MACs kept", *(f"{t:.0%}" for t in TARGETS[name]), "seconds", box=SIMPLE_HEAD)
    output.title = f"{name}, dense {dense}, widths in multiples of {round_to}"
    for preset in presets:
        cells, slowest = [], 0.0
        for target in TARGETS[name]:
            began = time.perf_counter()
            try:
                result = graphprune.prune(
                    model.path, target_macs=target, preset=preset, round_to=round_to, effort=effort
                )
            except GraphpruneError as error:
                cells.append(type(error).__name__)
                continue
            slowest = max(slowest, time.perf_counter() - began)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "pruned.onnx"
                result.save(path)
                run = onnxruntime_run(path)
                scores = {part: model.evaluate(run, some)[0].accuracy for part, some in parts.items()}
            kept = result.report.kept.macs
            accuracy = "\n".join(f"{score:.1%} {part}".rstrip() for part, score in scores.items())
            cells.append(accuracy + (f"\nat {kept:.0%}" if round(kept, 2) != target else ""))
        output.add_row(preset, *cells, f"{slowest:.1f}")
    console.print(output)


def halves(items: Items) -> dict[str, Items]:
    """The half that settings were chosen on, and the other one."""
    order = np.random.default_rng(0).permutation(len(items.inputs))
    middle = (len(order) + 1) // 2
    parts = {"choice": np.sort(order[:middle]), "other": np.sort(order[middle:])}
    return {name: Items(items.inputs[at], items.accepted[at]) for name, at in parts.items()}


if __name__ == "__main__":
    typer.run(main)
