"""Accuracy against MACs, without data, labels or training: `python -m benchmarks.accuracy [MODEL ...]`.

Every criterion prunes the same models to the same shares of their multiply-accumulates, and so do Torch-Pruning and
onnxsim; accuracy is on the labelled items of the zoo, which pruning never sees. Rows are written as they come to
`docs/accuracy.json`: run again, the benchmark makes only what is missing (`--again obs` makes rows anew). Each run ends
with the table `docs/accuracy.md` and the plot `docs/accuracy.svg` of all rows there are. Criteria that draw noise are
run with three seeds, and the table has the means: what a single one keeps is partly luck.

Settings of the default were chosen on one half of the photographs (`choice`), a fixed draw; the other half has only
been reported on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console

from benchmarks import peers, results
from graphprune import pipeline
from graphprune.errors import GraphpruneError
from graphprune.model import Model, save
from graphprune.pipeline import CHOICES, PRESETS, parse, run
from graphprune.state import State
from models import find
from models.zoo import Items, ZooModel, onnxruntime_run

DOCS = Path(__file__).parent.parent / "docs"
ROWS = DOCS / "accuracy.json"
DEFAULT = "obs"
GIVEN = 64  # unlabelled inputs
WITH_INPUTS = f"{DEFAULT}, {GIVEN} inputs"
OURS = [name for name in PRESETS if name not in ("clean", "sparse", "spare")]  # which remove what is asked for
FASHION, SMALL = [0.7, 0.5, 0.35, 0.25], [0.8, 0.7, 0.6, 0.5]  # of networks with room to spare, and without
TARGETS = {
    "fashion_resnet20": FASHION,
    "fashion_mobilenet": FASHION,
    "fashion_densenet": FASHION,
    "fashion_vgg": FASHION,
    "fashion_vit": [0.9, 0.8, 0.7, 0.5],
    "ppocr_cls": SMALL,
    "ppocr_rec": SMALL,
    "magika": SMALL,
    "efficientnet_lite0": SMALL,
}
SEEDS = [0, 1, 2]
CHOSEN_ON = {"efficientnet_lite0"}  # models on half of whose items settings were chosen
TORCH = "Torch-Pruning, "
ONNXSIM = "onnxsim, "


class Row(msgspec.Struct, frozen=True):
    """One model pruned by one criterion to one target.

    Attributes:
        model: of the zoo.
        criterion: a preset, or another tool and its score; `dense` is the model as it is.
        target: share of multiply-accumulates asked for.
        kept: share it ended at; 0 where it was not made.
        accuracy: top-1 by part of the items; the part "" is all of them.
        seconds: to prune.
        why: what went wrong, where it was not made.
        seed: of what the criterion draws.
    """

    model: str
    criterion: str
    target: float
    kept: float
    accuracy: dict[str, float]
    seconds: float = 0.0
    why: str = ""
    seed: int = 0

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What no two rows share."""
        return self.model, self.criterion, self.target, self.seed


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all that are there by default.")] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(help=f"Presets, `{WITH_INPUTS}`, `torch-pruning`, `onnxsim`; repeatable. Default: all."),
    ] = None,
    round_to: Annotated[int, typer.Option(help="Widths are multiples of this.")] = 8,
    effort: Annotated[float, typer.Option(help="Of presets that calibrate.")] = 1.0,
    onnxsim: Annotated[Path | None, typer.Option(help="The Python of an environment with onnxsim 0.8.1.")] = None,
    seed: Annotated[list[int], typer.Option(help="Of presets that draw something; repeatable.")] = SEEDS,
    again: Annotated[list[str], typer.Option(help="Criteria whose rows are made anew.")] = [],  # noqa: B006
    rows: Annotated[Path, typer.Option(help="Where results are kept.")] = ROWS,
) -> None:
    """Make the rows that are missing, then the table and the plot of all there are."""
    console = Console()
    wanted = criterion or [*OURS, WITH_INPUTS, "torch-pruning", *(["onnxsim"] if onnxsim else [])]
    for name in names or [n for n in TARGETS if n in _there()]:
        known = {row.key for row in read(rows) if row.criterion not in again}
        for row in _made(name, wanted, known, round_to, effort, seed, onnxsim):
            results.add(rows, row)
            scores = ", ".join(f"{score:.1%} {part}".strip() for part, score in row.accuracy.items()) or row.why
            made = f"{row.criterion}, seed {row.seed}" if row.seed else row.criterion
            console.print(f"{name}  {made}  {row.target:.0%} → {row.kept:.1%}  {scores}  {row.seconds:.0f} s")
    from benchmarks import accuracy_table

    accuracy_table.write(read(rows), rows.parent)


def read(path: Path) -> list[Row]:
    """The rows of a results file, none where there is no such file."""
    return results.read(path, Row)


def _there() -> set[str]:
    from models import catalogue

    return {name for name, model in catalogue().items() if model.path.exists()}


def _made(
    name: str,
    wanted: Sequence[str],
    known: Collection[tuple[str, str, float, int]],
    round_to: int,
    effort: float,
    seeds: Sequence[int],
    onnxsim: Path | None,
) -> Iterator[Row]:
    """The rows of one model that are not known."""
    model = find(name)
    items = model.items()
    parts = {"": items, **(halves(items) if name in CHOSEN_ON else {})}

    def row(criterion: str, target: float, path: Path | None, seconds: float, why: str, seed: int = 0) -> Row:
        if path is None:
            return Row(name, criterion, target, 0.0, {}, why=why, seed=seed)
        kept = round(peers.macs(path, shape) / whole, 4)
        return Row(name, criterion, target, kept, _scores(model, path, parts), round(seconds, 1), seed=seed)

    def missing(criterion: str, seed: int = 0) -> list[float]:
        return [t for t in TARGETS[name] if (name, criterion, t, seed) not in known]

    if (name, "dense", 1.0, 0) not in known:
        yield Row(name, "dense", 1.0, 1.0, _scores(model, model.path, parts))
    shape = (1, *items.inputs.shape[1:])
    whole = peers.macs(model.path, shape)
    with tempfile.TemporaryDirectory() as folder:
        for criterion in wanted:
            given = model.unlabelled(GIVEN) if criterion == WITH_INPUTS and model.unlabelled else None
            if criterion in PRESETS or given is not None:
                preset = DEFAULT if given is not None else criterion
                source = peers.loaded(model.path, shape)
                for seed in seeds if _draws(preset) else [0]:
                    made = _ours(source, preset, missing(criterion, seed), round_to, effort, seed, Path(folder), given)
                    for target, path, seconds, why in made:
                        yield row(criterion, target, path, seconds, why, seed)
            elif criterion == "torch-pruning":
                for importance in peers.importances():
                    for target in missing(TORCH + importance):
                        path, began, why = Path(folder) / "peer.onnx", time.perf_counter(), ""
                        try:
                            peers.torch_pruning(name, model.path, importance, target, round_to, path)
                        except Exception as error:
                            path, why = None, f"{type(error).__name__}: {error}"
                        seconds = time.perf_counter() - began
                        yield row(TORCH + importance, target, path, seconds, why)
            elif criterion == "onnxsim" and onnxsim and missing(f"{ONNXSIM}l2") + missing(f"{ONNXSIM}wanda"):
                steps = Path(folder) / "onnxsim"
                steps.mkdir()
                why = peers.onnxsim(onnxsim, model.path, steps) or "not reached"
                found = list(peers.ladder(steps, shape, whole))
                for score in ("l2", "wanda"):
                    for target in missing(ONNXSIM + score):
                        reached = [(kept, path) for s, kept, path in found if s == score and kept <= target + 0.005]
                        path = max(reached)[1] if reached else None
                        yield row(ONNXSIM + score, target, path, 0.0, why)


def _draws(preset: str) -> bool:
    """Whether the passes of a preset take a seed."""
    return any(slot in PRESETS[preset] for slot in ("{calibration}", "{sampled}", "{seed}"))


def _ours(
    source: Model,
    preset: str,
    targets: Sequence[float],
    round_to: int,
    effort: float,
    seed: int,
    folder: Path,
    given: np.ndarray | None = None,
) -> Iterator[tuple[float, Path | None, float, str]]:
    """What a preset makes of a model for each target; what comes before the choice is done once for all."""
    if not targets:
        return
    marker = "clean()"
    data = {} if given is None else {"inputs": dict.fromkeys(source.inputs, given)}
    drawn = f"seed={seed}"
    calibration = ", ".join([drawn, *[f"effort={effort}"] * bool(effort), *["given=True"] * bool(data)])
    text = pipeline.preset(preset, marker, seed=seed, sampled=drawn, calibration=calibration, noise=drawn, probed=True)
    before, after = text.split(f", {marker}, ")
    began = time.perf_counter()
    try:
        scored, _ = run(State(source, data=data), parse(before))
    except GraphpruneError as error:  # no target can be met in this way
        yield from ((target, None, 0.0, f"{type(error).__name__}: {error}") for target in targets)
        return
    shared = time.perf_counter() - began
    for target in targets:
        began = time.perf_counter()
        choice = f"{CHOICES.get(preset, 'choose')}(macs={target}, multiple={round_to})"
        try:
            result, _ = run(scored, parse(f"{choice}, {after}"))
        except GraphpruneError as error:
            yield target, None, 0.0, f"{type(error).__name__}: {error}"
            continue
        path = folder / "ours.onnx"
        save(result.model, path)
        yield target, path, shared + time.perf_counter() - began, ""


def _scores(model: ZooModel, path: Path, parts: dict[str, Items]) -> dict[str, float]:
    run = onnxruntime_run(path)
    return {part: round(float(model.evaluate(run, items)[0].accuracy), 5) for part, items in parts.items()}


def halves(items: Items) -> dict[str, Items]:
    """The half that settings were chosen on, and the other one."""
    order = np.random.default_rng(0).permutation(len(items.inputs))
    middle = (len(order) + 1) // 2
    parts = {"choice": np.sort(order[:middle]), "other": np.sort(order[middle:])}
    return {name: Items(items.inputs[at], items.accepted[at]) for name, at in parts.items()}


if __name__ == "__main__":
    typer.run(main)
