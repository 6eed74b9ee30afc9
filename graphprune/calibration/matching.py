"""Inputs that meet the statistics which BatchNorm remembers of real data: found by gradient descent from noise.

Yin et al. 2020, "Dreaming to Distill" (DeepInversion), equations 2 and 4, without its labels: what the layers of the
dense model make of such inputs has the means and spreads of real data, and correlations nearer to theirs than noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import Inputs
from graphprune.calibration.adjoints import Tape
from graphprune.calibration.gradient import Seed, with_gradients
from graphprune.calibration.statistics import LEAST, Statistics
from graphprune.errors import InvalidModelError
from graphprune.model import Model
from graphprune.progress import track
from graphprune.proof import Runner

RATE = 0.1  # of the first step, for inputs of about unit spread; falls to 0 along a cosine
MOMENTS = 0.9, 0.99  # what Adam remembers of gradients and of their squares


def matched(
    model: Model, statistics: Statistics, inputs: Inputs, steps: int, spread: tuple[float, float]
) -> dict[str, np.ndarray] | None:
    """The inputs, moved so that all of them together have the wanted moments at every tensor of ``statistics``.

    Adam (Kingma & Ba 2015) on the sum over tensors of the mean over channels of ((mean - wanted) / std)² and
    ((std - wanted) / std)². Inputs that are not float32 stay as they are.

    Args:
        model: as ``batched`` makes it.
        statistics: the moments wanted.
        inputs: where to start, all run at once.
        steps: of descent.
        spread: values are kept within this range.

    Returns:
        ``None`` where the gradient reaches no input, or is not finite.
    """
    moving = {name: x for name, x in inputs.items() if x.dtype == np.float32}
    seeds = {name: _mismatch(wanted, model.shapes[name]) for name, wanted in statistics.items()}
    graph, gradients = with_gradients(model, seeds, list(moving))
    if not gradients:
        return None
    try:
        runner = Runner(graph, optimise=True)
        runner(inputs)
    except InvalidModelError:  # onnxruntime has no kernel for one of the transposed operators
        return None
    x = {name: moving[name].astype(np.float64) for name in gradients}
    first, second = ({name: np.zeros_like(value) for name, value in x.items()} for _ in range(2))
    size: dict[str, float] = {}
    for step in track(range(steps)):
        values = runner({**inputs, **{name: value.astype(np.float32) for name, value in x.items()}})
        rate = RATE * (spread[1] - spread[0]) / 4 * (1 + np.cos(np.pi * step / steps)) / 2
        for name, gradient in gradients.items():
            g = values[gradient].astype(np.float64)
            if not np.isfinite(g).all():
                return None
            g /= size.setdefault(name, float(np.abs(g).mean()) or 1.0)
            for kept, new, share in zip((first[name], second[name]), (g, g * g), MOMENTS, strict=True):
                kept += (1 - share) * (new - kept)
            mean, square = (
                m[name] / (1 - share ** (step + 1)) for m, share in zip((first, second), MOMENTS, strict=True)
            )
            x[name] = np.clip(x[name] - rate * mean / (np.sqrt(square) + 1e-6), *spread)
    return {**inputs, **{name: value.astype(np.float32) for name, value in x.items()}}


def _mismatch(wanted: Mapping[str, np.ndarray], shape: Sequence[int | None]) -> Seed:
    """The gradient of a tensor's part of the loss, but for a common factor."""
    rank, positions = len(shape), prod(n or 1 for n in shape[2:])
    along = (1, -1, *[1] * (rank - 2))
    mean = wanted["mean"].reshape(along)
    usual = np.median(wanted["std"])
    std = wanted["std"].reshape(along) + 1e-3 * usual + 1e-12
    weight = 1 / (np.maximum(std, LEAST * usual) ** 2 * std.size * positions)
    axes = [axis for axis in range(rank) if axis != 1]

    def gradient(tape: Tape, tensor: gs.Variable) -> gs.Tensor:
        had = tape.reduced("ReduceMean", tensor, axes)
        square = tape.reduced("ReduceMean", tape("Mul", tensor, tensor), axes)
        variance = tape("Max", tape("Sub", square, tape("Mul", had, had)), 0.0)
        spread = tape("Sqrt", tape("Add", variance, 1e-8))
        slope = tape("Mul", tape("Div", tape("Sub", spread, std), spread), weight)
        level = tape("Sub", tape("Mul", tape("Sub", had, mean), weight), tape("Mul", slope, had))
        return tape("Add", tape("Mul", tensor, slope), level)

    return gradient
