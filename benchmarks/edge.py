"""Real networks, pruned and compiled for the edge, against onnxruntime: `python -m benchmarks.edge`, or some names.

Each network is pruned to 80 % of its multiply-accumulates without data (`--effort 0`) and compiled for wasm32 and
aarch64. Of what that wrote, each target's folder is copied to an empty place and run there, in Node, in headless
Chromium and in QEMU, on made-up inputs. Printed is the largest difference from onnxruntime on the pruned
`model.onnx`, by the largest output; the exit code is 1 where one is above the tolerance.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import graphprune
from graphprune.execute import execution, in_chromium
from graphprune.model import load
from graphprune.proof import Runner, compare, seeded_inputs
from models import find
from models.zoo import ZooModel

TOLERANCE = 1e-4
TEXT = (1, 64)
SHAPES = {  # the sizes that each file leaves open
    "efficientnet_lite0": {"image": (1, 3, 224, 224)},
    "fashion_resnet20": {"image": (1, 1, 28, 28)},
    "ppocr_cls": {"x": (1, 3, 48, 192)},
    "minilm": {"input_ids": TEXT, "attention_mask": TEXT},
}
TARGETS = ["wasm32", "aarch64"]
KEPT = 0.8


def errors(model: ZooModel, folder: Path, kept: float = KEPT, seeds: int = 2) -> dict[str, float]:
    """Prune and compile `model` into `folder`, and run it everywhere; the worst error by what ran it.

    Raises:
        CompileError: something that compiles or runs an artefact is not installed.
    """
    shapes = SHAPES.get(model.name, {})
    graphprune.compile(
        model.path, folder, targets=TARGETS, target_macs=kept, effort=0, input_shapes=shapes, timing_seconds=0
    )
    pruned = load(folder / "model.onnx", input_shapes=shapes)
    reference = Runner(pruned, optimise=True)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        alone = {target: shutil.copytree(folder / target, Path(scratch) / target) for target in TARGETS}
        ways: dict[str, Callable] = {}
        for target in TARGETS:
            way = execution(alone[target])
            ways[f"{target}, {way.by}"] = way.run or _not_run
        ways["wasm32, chromium"] = lambda inputs: in_chromium(alone["wasm32"], inputs)
        for seed in range(seeds):
            inputs = seeded_inputs(pruned, seed)
            expected = reference(inputs)
            assert all(np.abs(value).max() > 1e-6 for value in expected.values()), "outputs that vanish prove nothing"
            for by, run in ways.items():
                found[by] = max(found.get(by, 0.0), compare(run(inputs), expected, TOLERANCE).error)
    return found


def _not_run(inputs: object) -> dict[str, np.ndarray]:
    return {}


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; those of the description by default.")] = None,
    kept: Annotated[float, typer.Option(help="Share of the multiply-accumulates to keep.")] = KEPT,
    seeds: Annotated[int, typer.Option(min=1, help="Inputs to try.")] = 2,
) -> None:
    """Print a line for each network."""
    print(f"largest difference by the largest output, {seeds} inputs; allowed: {TOLERANCE:.0e}", flush=True)
    worst = 0.0
    for name in names or SHAPES:
        with tempfile.TemporaryDirectory() as scratch:
            found = errors(find(name), Path(scratch) / "out", kept, seeds)
        print(f"{name:20}", *(f"{by} {error:.1e}" for by, error in found.items()), sep="  ", flush=True)
        worst = max(worst, *found.values())
    raise typer.Exit(int(worst > TOLERANCE))


if __name__ == "__main__":
    typer.run(main)
