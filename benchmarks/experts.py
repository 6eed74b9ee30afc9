"""Experts removed from a trained mixture, without labels or training: `python -m benchmarks.experts`.

The Fashion-MNIST mixture of experts of `models/`: its accuracy after a share of the experts of both layers is gone,
chosen by what the outputs miss or by what the routers ask for, on made-up inputs in the range of its images or on real
ones, and beside them the mean of random choices; then with neurons inside the experts gone too. Every cut is proved on
the way.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import graphprune
from graphprune.api import Result
from graphprune.model import load
from graphprune.pipeline import AFTER, BEFORE, parse, run
from graphprune.state import State
from models import find
from models.fashion import test_set
from models.zoo import onnxruntime_run

MODEL = find("fashion_moe")
REAL = 100  # images for the rows with real inputs: the last of the test set, which are not among those scored
DRAWS = 5
SHARES = [0.25, 0.5, 0.75]


def main() -> None:
    """Print the table."""
    items = MODEL.items()

    def accuracy(path: Path) -> float:
        return float(MODEL.evaluate(onnxruntime_run(path), items)[0].accuracy)

    def scored(result: Result) -> float:
        with tempfile.TemporaryDirectory() as folder:
            result.save(Path(folder) / "small.onnx")
            return accuracy(Path(folder) / "small.onnx")

    real = {"image": test_set().inputs[-REAL:]}
    table = Table("removed", "chosen by", "inputs", "parameters", "MACs", "law", "accuracy", box=SIMPLE_HEAD)
    table.add_row("nothing", "", "", "100.0%", "100.0%", "", f"{accuracy(MODEL.path):.2%}")

    def add(removed: str, by: str, inputs: str, passes: str, **options: Any) -> None:
        result = graphprune.prune(MODEL.path, passes=f"{BEFORE}, {passes}, {AFTER}", **options)
        law = max(step.error or 0.0 for step in result.report.steps if step.law)
        kept = result.report.kept
        table.add_row(
            removed, by, inputs, f"{kept.parameters:.1%}", f"{kept.macs:.1%}", f"{law:.0e}", f"{scored(result):.2%}"
        )

    for share in SHARES:
        removed = f"{share:.0%} of experts"
        for by in ("output", "selection"):
            add(removed, by, "made up", f"choose_experts(count={share}, by='{by}', spread=(0.0, 1.0)), cut")
            given = f"choose_experts(count={share}, by='{by}', given=True), cut"
            add(removed, by, f"{REAL} real", given, calibration_data=real)
        table.add_row(removed, "random", "", "", "", "", f"{mean(drawn(share, accuracy)):.2%}")
    for experts, neurons in ((0.0, 0.25), (0.25, 0.25), (0.0, 0.5), (0.25, 0.5)):
        chosen = f"choose_experts(count={experts}, spread=(0.0, 1.0)), " if experts else ""
        passes = f"{chosen}magnitude(power=2), uniform(ratio={neurons}, among='experts.up.2'), cut"
        removed = f"{experts:.0%} of experts, {neurons:.0%} of their neurons"
        add(removed, "output, weights", "made up", passes)
    Console(width=120).print(table)


def drawn(share: float, accuracy: Any) -> list[float]:
    """Accuracies after random choices."""
    state, _ = run(State(load(MODEL.path)), parse(BEFORE))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        drop = {g.name: np.sort(rng.permutation(g.size)[: round(share * g.size)]) for g in state.experts}
        small, _ = run(State(state.model, drop=drop), parse(f"cut, {AFTER}"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.onnx"
            graphprune.model.save(small.model, path)
            found.append(accuracy(path))
    return found


if __name__ == "__main__":
    main()
