"""How long removing units and refitting what is left takes, and that it grows as the cube of the width.

    python -m benchmarks.solve [--widths 256 512 1024 2048] [--columns 1] [--repeats 3]

Layers of as many outputs as units that read correlated inputs; each unit owns as many columns as the window of its
kernel has taps. Everything runs on one thread, as pruning does.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.analysis import median
from graphprune.obs import Problem, damped, fit, remove_all

DAMP = 0.01


def layer(units: int, columns: int, seed: int = 0) -> Problem:
    """A layer of as many outputs that reads ``units`` units of ``columns`` columns each, and a constant."""
    rng = np.random.default_rng(seed)
    width = units * columns
    samples = np.ones((2 * width, width + 1))
    samples[:, :-1] = rng.standard_normal((2 * width, width)) + rng.standard_normal((2 * width, 1))
    second = damped(samples.T @ samples / len(samples), DAMP)
    return Problem(rng.standard_normal((units, width + 1)), second, np.arange(width).reshape(units, columns))


def seconds(problem: Problem, repeats: int) -> tuple[float, float]:
    """Median seconds of removing all units, and of refitting the half that goes last."""
    order, _ = remove_all([problem])
    kept = np.append(problem.columns[np.sort(order[len(order) // 2 :])].ravel(), len(problem.second) - 1)
    removing = median(lambda: remove_all([problem]), repeats)
    return removing, median(lambda: fit(problem.weights, problem.second, kept, DAMP), repeats)


def main(
    widths: Annotated[list[int] | None, typer.Option("--widths", help="Units of the layer; repeat it.")] = None,
    columns: Annotated[int, typer.Option(help="Of each unit: 1, or 9 for a 3 x 3 kernel.")] = 1,
    repeats: Annotated[int, typer.Option(help="Runs of which the median is shown.")] = 3,
) -> None:
    """Print seconds and the power of the width by which they grew since the row above."""
    table = Table("units", "columns", "remove all", "power", "refit half", "power")
    last: tuple[int, tuple[float, float]] | None = None
    with threadpool_limits(1):
        for units in widths or [256, 512, 1024, 2048]:
            took = seconds(layer(units, columns), repeats)
            powers = ["", ""]
            if last:
                powers = [
                    f"{math.log(now / then) / math.log(units / last[0]):.1f}"
                    for now, then in zip(took, last[1], strict=True)
                ]
            last = units, took
            cells = zip((f"{t:.3f} s" for t in took), powers, strict=True)
            table.add_row(f"{units:,}", f"{units * columns:,}", *(cell for pair in cells for cell in pair))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
