"""Fewer layers, and a narrower residual stream, without data or training: `python -m benchmarks.depth [MODEL ...]`.

For each model of the zoo: its score after 1, 2, … layers are removed, chosen greedily by the outputs (FinerCut) and,
beside it, by their influence on their own input (ShortGPT); and after the residual stream is rotated and sliced
(SliceGPT). Every removal is proved on the way. The score is on the labelled items of the zoo, which no pass sees.

Choices and scores are kept in `build/depth.json` as they are made: run again, it goes on where it was stopped, and
`--again` starts anew. `docs/depth.svg` is drawn of all that is kept, where matplotlib is installed.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
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

MODELS = ["fashion_resnet20", "fashion_vit", "minilm"]
WIDTHS = [0.125, 0.25, 0.375, 0.5]
ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "depth.json"
PLOT = ROOT / "docs" / "depth.svg"

Row = tuple[str, str, str, str, str]
"""What was removed, the share of parameters left, the score, seconds, and what went."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; three of the smaller ones by default.")] = None,
    layers: Annotated[int, typer.Option(help="How many layers to remove at most.")] = 10,
    of: Annotated[str, typer.Option(help="What is a layer; see the pass choose_layers.")] = "branch",
    inputs: Annotated[int, typer.Option(help="Made-up inputs to choose by.")] = 12,
    length: Annotated[int, typer.Option(help="Tokens of each, where a model reads such; 0 for what it is.")] = 0,
    items: Annotated[int, typer.Option(help="How many labelled items to score on; 0 for all.")] = 0,
    width: Annotated[bool, typer.Option(help="Whether to slice the residual stream too.")] = False,
    again: Annotated[bool, typer.Option(help="Whether to make anew what is kept.")] = False,
) -> None:
    """Print a table for each model."""
    console = Console()
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() and not again else {}
    for name in names or MODELS:
        made_up = f"{inputs} inputs{f' of {length} tokens' if length else ''}"
        measured = Measured(find(name), kept, f"{name}, {of}, {made_up}, {items or 'all'} items", items, length)
        output = Table("removed", "of parameters", "score", "seconds", "what", box=SIMPLE_HEAD, title=name)
        output.add_row("nothing", "100.0%", measured.dense(), "")
        for by in ("output", "influence"):
            for row in measured.shorter(by, layers, of, inputs):
                output.add_row(*row)
        for row in measured.narrower(inputs) if width else ():
            output.add_row(*row)
        console.print(output)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    draw(kept)


class Measured:
    """One model, with what is known of it from earlier runs."""

    def __init__(self, model: ZooModel, kept: dict[str, Any], key: str, items: int, length: int) -> None:
        self._model, self._all = model, kept
        self._kept: dict[str, Any] = kept.setdefault(key, {"chosen": {}, "rows": {}})
        self._count, self._length = items, length

    @cached_property
    def prepared(self) -> Model:
        """The model with its arithmetic of shapes folded, read when it is first needed."""
        sizes = {self._tokens: self._length} if self._length else {}
        state, _ = run(State(load(self._model.path, dim_params=sizes)), parse(BEFORE))
        return state.model

    @property
    def _tokens(self) -> str:
        """What the file calls the length of its texts: every exporter has its own names."""
        inputs = onnx.load(self._model.path, load_external_data=False).graph.input
        dims = next(i.type.tensor_type.shape.dim for i in inputs if len(i.type.tensor_type.shape.dim) == 2)
        return dims[1].dim_param

    def dense(self) -> str:
        """The score of the model as it is."""
        row = self._row("nothing", lambda: ("100.0%", self._score(self._model.path), ""))
        return row[2]

    def shorter(self, by: str, most: int, of: str, inputs: int) -> Iterator[Row]:
        """A row for every number of layers up to ``most``; the choice is made once, and takes the time of row 0."""
        chosen: dict[str, list[str]] = self._kept["chosen"]
        if len(chosen.get(by, [])) < most:
            began = time.perf_counter()
            text = f"choose_layers(count={most}, by='{by}', of='{of}', inputs={inputs})"
            state, _ = run(State(self.prepared), parse(text))
            chosen[by] = list(state.data["layers"])
            self._kept[f"seconds {by}"] = round(time.perf_counter() - began)
            self._write()
        yield f"0 by {by}", "", "", str(self._kept[f"seconds {by}"]), "the choice"
        for count in range(1, most + 1):
            layers = tuple(chosen[by][:count])
            yield self._row(f"{count} by {by}", lambda layers=layers: self._shorter(layers))

    def _shorter(self, layers: tuple[str, ...]) -> tuple[str, str, str]:
        small, _ = run(State(self.prepared, layers=layers), parse(f"remove_layers, {AFTER}"))
        return *self._measured(small.model), layers[-1]

    def narrower(self, inputs: int) -> Iterator[Row]:
        """A row for every share of the residual stream that is sliced away."""
        for share in WIDTHS:
            text = f"fold_norms, rotate(inputs={inputs}), uniform(ratio={share}, multiple=8), cut, {AFTER}"
            try:
                yield self._row(f"{share:.1%} of width", lambda text=text: self._narrower(text))
            except GraphpruneError as error:
                yield "width", "", "", "", str(error)
                return

    def _narrower(self, text: str) -> tuple[str, str, str]:
        small, _ = run(State(self.prepared), parse(text))
        return *self._measured(small.model), ""

    def _row(self, name: str, make: Any) -> Row:
        rows: dict[str, list[str]] = self._kept["rows"]
        if name not in rows:
            began = time.perf_counter()
            share, score, what = make()
            rows[name] = [share, score, f"{time.perf_counter() - began:.0f}", what]
            self._write()
        share, score, seconds, what = rows[name]
        return name, share, score, seconds, what

    def _write(self) -> None:
        KEPT.parent.mkdir(exist_ok=True)
        beside = KEPT.with_suffix(".new")
        beside.write_text(json.dumps(self._all, indent=1))
        beside.replace(KEPT)

    def _measured(self, after: Model) -> tuple[str, str]:
        """The share of parameters left, and the score."""
        models = (self.prepared, after)
        sizes = [sum(int(np.prod(c.shape)) for c in m.constants.values() if c.dtype.kind == "f") for m in models]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.onnx"
            save(after, path)
            return f"{sizes[1] / sizes[0]:.1%}", self._score(path)

    def _score(self, path: Path) -> str:
        return str(self._model.evaluate(onnxruntime_run(path), _some(self._model.items(), self._count))[0])


def _some(items: Any, count: int) -> Any:
    """``count`` of the items, from all over them; all for 0."""
    if not count:
        return items
    columns = [items] if isinstance(items, np.ndarray) else [*vars(items).values()] if is_dataclass(items) else items
    length = len(columns[0])
    at = np.linspace(0, length - 1, min(count, length)).astype(int)
    some = [column[at] if isinstance(column, np.ndarray) else [column[k] for k in at] for column in columns]
    return some[0] if isinstance(items, np.ndarray) else type(items)(*some)


def draw(kept: dict[str, Any]) -> None:
    """A curve for every model and choice: the score over the number of layers that are gone."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install 'graphprune[bench]'")
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "depth"
    figure, panels = pyplot.subplots(1, len(kept), figsize=(4 * len(kept), 3.2), squeeze=False, layout="constrained")
    for panel, (key, found) in zip(panels[0], kept.items(), strict=True):
        for by, label in (("output", "by the outputs (FinerCut)"), ("influence", "by influence (ShortGPT)")):
            points = [(0, found["rows"].get("nothing"))]
            points += [(k, found["rows"].get(f"{k} by {by}")) for k in range(1, 100)]
            known = [(k, figure_of(row[1])) for k, row in points if row]
            panel.plot(*zip(*known, strict=True), marker="o", markersize=3, label=label)
        panel.set(title=key.partition(",")[0], xlabel="layers removed")
        panel.set_yscale("log" if "perplexity" in found["rows"]["nothing"][1] else "linear")
        panel.set_ylabel("perplexity" if "perplexity" in found["rows"]["nothing"][1] else "accuracy, %")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(PLOT, metadata={"Date": None})


def figure_of(score: str) -> float:
    """The first number of a score, such as 94.2 of ``top-1 94.20% ± 0.52%``."""
    return float(next(word.rstrip("%,") for word in score.split() if word[0].isdigit()))


if __name__ == "__main__":
    typer.run(main)
