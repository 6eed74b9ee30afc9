"""Inputs that meet the statistics which BatchNorm remembers of real data: found by gradient descent from noise.

Yin et al. 2020, "Dreaming to Distill" (DeepInversion), equations 2 and 4, without its labels: what the layers of the
dense model make of such inputs has the means and spreads of real data, and correlations nearer to theirs than noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto, helper

from graphprune.calibration.activations import Inputs
from graphprune.calibration.gradient import Seed, Tape, with_gradients, with_outputs
from graphprune.calibration.statistics import Statistics
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
    ((std - wanted) / std)². One input is moved after another, each against the moments that all had when they were
    last looked at, so that one is in memory at a time. Inputs that are not float32 stay as they are.

    Args:
        model: as ``batched`` makes it.
        statistics: the moments wanted.
        inputs: where to start.
        steps: of descent, for every input.
        spread: values are kept within this range.

    Returns:
        ``None`` where the gradient reaches no input, or is not finite.
    """
    sizes = {name: shape[0] for name, shape in model.input_shapes.items() if shape and name in model.inputs}
    count = min((len(inputs[name]) // size for name, size in sizes.items()), default=0)
    moving = [name for name in sizes if inputs[name].dtype == np.float32]
    graph, gradients, known = _graph(model, statistics, moving)
    if not gradients or not count:
        return None
    try:
        runner = Runner(graph, optimise=True)
    except InvalidModelError:  # onnxruntime has no kernel for one of the transposed operators
        return None
    pull = _Pull(model, statistics, known, count)
    x = {name: inputs[name].astype(np.float64) for name in gradients}
    first, second = ({name: np.zeros_like(value) for name, value in x.items()} for _ in range(2))
    size: dict[str, float] = {}
    for step in track(range(-1, steps)):  # the first round only looks
        rate = RATE * (spread[1] - spread[0]) / 4 * (1 + np.cos(np.pi * max(step, 0) / steps)) / 2
        for k in range(count):
            at = {name: slice(k * n, (k + 1) * n) for name, n in sizes.items()}
            item = {n: (x[n] if n in x else inputs[n])[at[n]].astype(inputs[n].dtype) for n in sizes}
            rest = {name: inputs[name] for name in model.inputs if name not in sizes}
            try:
                values = runner({**item, **rest, **pull.towards()})
            except InvalidModelError:
                return None
            pull.saw(k, values)
            if step < 0:
                continue
            for name, gradient in gradients.items():
                g = values[gradient].astype(np.float64)
                if not np.isfinite(g).all():
                    return None
                g /= size.setdefault(name, float(np.abs(g).mean()) or 1.0)
                mean, square = first[name][at[name]], second[name][at[name]]
                mean += (1 - MOMENTS[0]) * (g - mean)
                square += (1 - MOMENTS[1]) * (g * g - square)
                stride = mean / (1 - MOMENTS[0] ** (step + 1))
                stride /= np.sqrt(square / (1 - MOMENTS[1] ** (step + 1))) + 1e-6
                x[name][at[name]] = np.clip(x[name][at[name]] - rate * stride, *spread)
    return {**inputs, **{name: value.astype(np.float32) for name, value in x.items()}}


class _Pull:
    """The moments of every tensor for every input, as last seen, and which way they call for."""

    def __init__(self, model: Model, statistics: Statistics, names: Sequence[str], count: int) -> None:
        self._wanted = {name: statistics[name] for name in names}
        self._weight = {name: 1 / prod(n or 1 for n in model.shapes[name][1:]) for name in names}
        self._seen = {name: np.zeros((count, 2, len(statistics[name]["mean"]))) for name in names}

    def saw(self, k: int, values: Mapping[str, np.ndarray]) -> None:
        """Remember what input ``k`` had."""
        for name, seen in self._seen.items():
            for part, kind in enumerate(("mean", "square")):
                v = values[f"{name}:{kind}"].astype(np.float64)
                seen[k, part] = v.reshape(-1, seen.shape[2]).mean(axis=0)

    def towards(self) -> dict[str, np.ndarray]:
        """The gradient of the loss is ``slope * tensor + offset`` in every channel, but for a common factor."""
        fed = {}
        for name, seen in self._seen.items():
            had, square = seen.mean(axis=0)
            wanted = self._wanted[name]
            std = wanted["std"] + 1e-3 * np.median(wanted["std"]) + 1e-12
            spread = np.sqrt(np.maximum(square - had**2, 0.0) + 1e-8)
            weight = self._weight[name] / std**2
            slope = 1 - std / spread
            fed[f"{name}:slope"] = (weight * slope).astype(np.float32)
            fed[f"{name}:offset"] = (weight * (had - wanted["mean"] - slope * had)).astype(np.float32)
        return fed


def _graph(model: Model, statistics: Statistics, moving: Sequence[str]) -> tuple[Model, dict[str, str], list[str]]:
    """The model with gradients and moments, the names of the gradients, and the tensors whose moments it gives."""
    named: dict[str, list[gs.Variable]] = {}
    seeds = {name: _seed(name, model.shapes[name], len(w["mean"]), named) for name, w in statistics.items()}
    graph, gradients = with_gradients(model, seeds, moving)
    header = ModelProto()
    header.CopyFrom(graph.header)
    for name in named:
        for part in ("slope", "offset"):
            info = helper.make_tensor_value_info(f"{name}:{part}", TensorProto.FLOAT, [len(statistics[name]["mean"])])
            header.graph.input.append(info)
    outputs = [t.name for tensors in named.values() for t in tensors]
    return replace(graph, header=with_outputs(header, outputs)), gradients, list(named)


def _seed(name: str, shape: Sequence[int | None], channels: int, named: dict[str, list[gs.Variable]]) -> Seed:
    axes = list(range(2, len(shape)))

    def gradient(tape: Tape, tensor: gs.Variable) -> gs.Tensor:
        slope, offset = (gs.Variable(f"{name}:{part}", np.float32, [channels]) for part in ("slope", "offset"))
        moments = [gs.Variable(f"{name}:{part}", np.float32) for part in ("mean", "square")]
        named[name] = moments
        square = tape("Mul", tensor, tensor)
        found = [tape.reduced("ReduceMean", x, axes) if axes else x for x in (tensor, square)]
        for variable, source in zip(moments, found, strict=True):
            tape.nodes.append(gs.Node("Identity", f"{variable.name}:named", inputs=[source], outputs=[variable]))
        zeros, ones = np.zeros(channels), np.ones(channels)
        # In one pass over memory: slope * tensor + offset.
        return tape("BatchNormalization", tensor, slope, offset, zeros, ones, epsilon=0.0)

    return gradient
