"""Fewer layers, and a narrower residual stream, without data or training: `python -m benchmarks.depth [MODEL ...]`.

For each model of the zoo: its score after 1, 2, … layers are removed, chosen greedily by the outputs (FinerCut) and,
beside it, by their influence on their own input (ShortGPT); and after the residual stream is rotated and sliced
(SliceGPT). Every removal is proved on the way. The score is on the labelled items of the zoo, which no pass sees.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graphprune.errors import GraphpruneError
from graphprune.model import Model, load, save
from graphprune.pipeline import AFTER, BEFORE, parse, run
from graphprune.state import State
from models import find
from models.zoo import ZooModel, onnxruntime_run

MODELS = ["fashion_resnet20", "fashion_vit"]
WIDTHS = [0.125, 0.25, 0.375, 0.5]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; those that are committed by default.")] = None,
    layers: Annotated[int, typer.Option(help="How many layers to remove at most.")] = 5,
    of: Annotated[str, typer.Option(help="What is a layer; see the pass choose_layers.")] = "branch",
    inputs: Annotated[int, typer.Option(help="Made-up inputs to choose by.")] = 12,
    width: Annotated[bool, typer.Option(help="Whether to slice the residual stream too.")] = True,
) -> None:
    """Print a table for each model."""
    console = Console()
    for name in names or MODELS:
        model = find(name)
        output = Table("removed", "of parameters", "score", "seconds", "what", box=SIMPLE_HEAD, title=name)
        output.add_row("nothing", "100.0%", _score(model, model.path), "")
        for by in ("output", "influence"):
            for row in shorter(model, by, layers, of, inputs):
                output.add_row(*row)
        for row in narrower(model, inputs) if width else ():
            output.add_row(*row)
        console.print(output)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def shorter(model: ZooModel, by: str, most: int, of: str, inputs: int) -> Iterator[tuple[str, ...]]:
    """A row for every number of layers up to ``most``; the choice is made once, its time is in the first row."""
    began = time.perf_counter()
    start = State(load(model.path))
    text = f"{BEFORE}, choose_layers(count={most}, by='{by}', of='{of}', inputs={inputs})"
    state, _ = run(start, parse(text))
    chosen = list(state.data["layers"])
    for count in range(1, len(chosen) + 1):
        small, _ = run(replace(state, layers=tuple(chosen[:count])), parse(f"remove_layers, {AFTER}"))
        seconds = time.perf_counter() - began
        yield f"{count} by {by}", *_measured(model, start.model, small.model), f"{seconds:.0f}", chosen[count - 1]
        began = time.perf_counter()


def narrower(model: ZooModel, inputs: int) -> Iterator[tuple[str, ...]]:
    """A row for every share of the residual stream that is sliced away."""
    start = State(load(model.path))
    for share in WIDTHS:
        began = time.perf_counter()
        text = f"{BEFORE}, fold_norms, rotate(inputs={inputs}), uniform(ratio={share}, multiple=8), cut, {AFTER}"
        try:
            small, _ = run(start, parse(text))
        except GraphpruneError as error:
            yield "width", "", "", "", str(error)
            return
        seconds = time.perf_counter() - began
        yield f"{share:.1%} of width", *_measured(model, start.model, small.model), f"{seconds:.0f}", ""


def _measured(model: ZooModel, before: Model, after: Model) -> tuple[str, str]:
    """The share of parameters left, and the score."""
    sizes = [sum(c.values.size for c in m.constants.values() if c.dtype.kind == "f") for m in (before, after)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        save(after, path)
        return f"{sizes[1] / sizes[0]:.1%}", _score(model, path)


def _score(model: ZooModel, path: Path) -> str:
    return str(model.evaluate(onnxruntime_run(path), model.items())[0])


if __name__ == "__main__":
    typer.run(main)
