"""Transformers pruned without text, labels or training: `python -m benchmarks.language [CASE ...]`.

Every case prunes a model of the zoo by one pipeline and measures what is left on the model's own task, in a process of
its own whose time and peak memory are part of the table. Results are kept in `build/language.json`: run again, it makes
only what is missing, and `--again` makes everything anew. SmolLM2 takes minutes for each case.

`--exports` runs the pruned files at other batches and lengths than they were pruned at.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import graphprune
from graphprune.pipeline import AFTER, BEFORE
from models import decoder, find
from models.zoo import onnxruntime_run

BUILD = Path(__file__).parents[1] / "build"
KEPT = BUILD / "language.json"
NEURONS, HEADS = "gelu|silu|act_fn", "softmax"  # axes that the neurons and the heads of these exports pass through
TEXT = 256  # tokens of the sequences that SmolLM2 writes, as many as a window of its task has
SCORES = {
    "fisher": ("fisher", "allocate", "reconstruct"),
    "obs": ("obs", "allocate", "reconstruct"),
    "flap": ("flap", "choose", "reconstruct(damp=1e6)"),
    "wanda": ("wanda", "choose", ""),
    "magnitude": ("magnitude", "choose", ""),
}


@dataclass(frozen=True)
class Case:
    """One model, pruned by one criterion.

    Attributes:
        model: in the zoo.
        score: one of ``SCORES``, or nothing for the dense model.
        amounts: regular expression of axes → share of these groups' units to remove, all of them competing.
    """

    model: str
    score: str = ""
    amounts: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """What the command line calls it."""
        amounts = (f"{'heads' if among == HEADS else 'neurons'}{round(100 * share)}" for among, share in self.amounts)
        return "-".join([self.model, self.score or "dense", *amounts])

    @property
    def passes(self) -> str:
        """The pipeline."""
        score, choose, repair = SCORES[self.score]
        choices = [f"{choose}(units={1 - share}, among={among!r})" for among, share in self.amounts]
        calibrate = [] if self.score == "magnitude" else ["calibrate"]
        return ", ".join(filter(None, [BEFORE, *calibrate, score, *choices, "cut", repair, AFTER]))

    @property
    def path(self) -> Path:
        """The pruned file."""
        return BUILD / "language" / f"{self.name}.onnx" if self.score else find(self.model).path


MINILM = (NEURONS, 0.5), (HEADS, 0.25)
CASES = {
    case.name: case
    for case in [
        Case("minilm"),
        *(Case("minilm", score, MINILM) for score in SCORES),
        Case("smollm2"),
        *(Case("smollm2_past", score, ((NEURONS, 0.25),)) for score in SCORES),
        *(Case("smollm2_past", score, ((NEURONS, 0.5),)) for score in SCORES),
        *(Case("smollm2", score, ((NEURONS, 0.25),)) for score in ("wanda", "magnitude")),
    ]
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Cases; all whose model is built by default.")] = None,
    again: Annotated[bool, typer.Option(help="Make also what there is.")] = False,
    exports: Annotated[bool, typer.Option(help="Run the pruned files at other sizes too.")] = False,
    alone: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Make what is missing, and print the table."""
    if alone:
        print(json.dumps(measured(CASES[(names or [""])[0]])))
        return
    found: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in names or [n for n, case in CASES.items() if find(case.model).path.exists()]:
        if name not in found or again:
            found[name] = _apart(name)
            KEPT.parent.mkdir(exist_ok=True)
            KEPT.write_text(json.dumps(found, indent=1))
        if exports and CASES[name].score:
            print(name, *(f"batch {b}, length {n}" for b, n in sizes(CASES[name])), sep="; ")
    output = Table("case", "task", "parameters kept", "seconds", "peak GB", box=SIMPLE_HEAD)
    for name in CASES:
        if name in found:
            row = found[name]
            output.add_row(name, *row["task"], f"{row['kept']:.1%}", f"{row['seconds']:.0f}", f"{row['peak']:.2f}")
    Console().print(output)


def _apart(name: str) -> dict[str, Any]:
    """A case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.language", name, "--alone"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measured(case: Case) -> dict[str, Any]:
    """Prune, which is timed, and evaluate the file; the peak memory is that of pruning."""
    model = find(case.model)
    began, kept = time.perf_counter(), 1.0
    if case.score:
        case.path.parent.mkdir(parents=True, exist_ok=True)
        among = "|".join(axes for axes, _ in case.amounts)
        sizes = {"sequence": TEXT} if case.model == "smollm2_past" else {}
        result = graphprune.prune(model.path, passes=case.passes, include=among, dim_params=sizes)
        for path in (case.path, graphprune.api.plan_path(case.path)):
            path.unlink(missing_ok=True)
        result.save(case.path)
        kept = result.report.after.parameters / result.report.before.parameters
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    run = onnxruntime_run(case.path)
    task = [str(score) for kind in model.data for score in model.evaluate(run, model.items(kind))]
    return {"task": ["; ".join(task)], "kept": kept, "seconds": seconds, "peak": peak}


def sizes(case: Case) -> list[tuple[int, int]]:
    """Run a pruned file at several batches and lengths; a text must mean the same whatever it shares the batch with.

    A decoder must also say the same of the second half of a text behind the caches of the first.

    Returns:
        The sizes at which it ran.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(case.path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    shapes = {i.name: i.shape for i in session.get_inputs() if i.name.startswith(decoder.INPUT)}

    def run(ids: np.ndarray, past: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        if not shapes:
            return {names[0]: session.run(names[:1], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]}
        nothing = {
            name: np.zeros((len(ids), heads, 0, width), np.float32) for name, (_, heads, _, width) in shapes.items()
        }
        return dict(zip(names, session.run(names, decoder.inputs(ids, past or nothing)), strict=True))

    rng = np.random.default_rng(0)
    ran = []
    for batch, length in [(1, 1), (2, 7), (3, 33)]:
        ids = rng.integers(1000, 20000, (batch, length))
        together = run(ids)[names[0]]
        apart = [np.concatenate([run(row[None])[names[0]] for row in ids])]
        if shapes and length > 1:
            first = run(ids[:, : length // 2])
            second = run(ids[:, length // 2 :], decoder.given_back(first))
            apart.append(np.concatenate([first[names[0]], second[names[0]]], axis=1))
        for other in apart:
            assert np.abs(together - other).max() <= 1e-4 * np.abs(other).max(), "rows or halves do not stand alone"
        ran.append((batch, length))
    return ran


if __name__ == "__main__":
    typer.run(main)
