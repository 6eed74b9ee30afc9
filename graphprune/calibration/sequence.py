"""Layers refitted one after another, each on what the cut and refitted layers before it now make.

A layer fitted to what the dense model feeds it does not know what the layers before it have come to do wrong, and
errors add up unseen. Here its inputs are those of the cut model, and its goal is the dense model's tensor behind the
residual addition, so that it also makes up for what comes to that addition wrong. (Frantar & Alistarh 2022 feed pruned
inputs; Li et al. 2025, "GPTAQ", aim at dense outputs besides; both for single weights.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import Moments
from graphprune.calibration.activations import batched, chunks
from graphprune.calibration.destination import destination, normalised, size
from graphprune.calibration.refit import Solve, calibrated, left, lost, write
from graphprune.cut import Gone
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.model.streaming import walk
from graphprune.progress import track
from graphprune.rules import Dim, Layer
from graphprune.state import State

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Stop:
    """A layer that lost inputs, and the tensors it is refitted by.

    Attributes:
        node: in the cut model.
        layer: the same as a matrix product.
        moments: of the dense model.
        goal: what the output ends up in.
        relative: whether its rows count by their size.
        beside: what is added to the output there, where that comes before the layer.
    """

    node: gs.Node
    layer: Layer
    moments: Moments
    goal: str
    relative: bool
    beside: tuple[str, ...]


def refitted_in_sequence(state: State, name: str, solve: Solve, damp: float) -> State:
    """A state whose layers that lost inputs have new weights, or the same state where none did.

    Args:
        state: calibrated, and cut since, with the model before the cut in ``data["uncut"]``.
        name: of the pass that asks, for its error.
        solve: finds weights by the dense model's moments. They stand for what is no matrix product.
        damp: share of the mean input power that holds the new weights near those.

    Raises:
        UsageError: the layers were not calibrated, or with made-up images only.
    """
    calibration = calibrated(state, name)
    going: Gone = state.data.get("cut", {})
    model = batched(state.model.copy())
    stops = list(_stops(model, state))
    if not stops:
        return state
    dense, real = batched(state.data["uncut"]), state.data.get("inputs")
    batches = [chunk for one in ([real] if real else calibration.text) for chunk in chunks(dense, one)]
    if not batches:
        raise UsageError(f"{name} in sequence needs text or real inputs", "give --calibration-data, or sequence=0")
    here = walk(model, batches, [(s.layer.x, *s.beside) for s in stops])
    there = walk(dense, batches, [(s.layer.y, s.goal, *s.beside) for s in stops])
    for stop, now, before in zip(track(stops), here, there, strict=True):
        fitted = np.stack([solve(*problem) for problem in left(stop.layer, stop.moments, going)])
        if len(fitted) == 1:
            fitted = _nearer(stop, fitted[0], now, before, going, damp)[None]
        write(model, stop.node, stop.layer, fitted)
    return replace(state, model=replace(model, header=state.model.header))


def _stops(model: Model, state: State) -> Iterator[_Stop]:
    """The layers that lost inputs, in the order of the graph."""
    place = {t.name: k for k, node in enumerate(model.graph.nodes) for t in node.outputs}
    for node, layer, moments in lost(model, state):
        goal, other = destination(node)
        beside = (other.name,) if other is not None and place.get(other.name, -1) < place[layer.y] else ()
        yield _Stop(node, layer, moments, goal.name, normalised(goal), beside)


def _nearer(
    stop: _Stop, weights: np.ndarray, now: Sequence[Values], before: Sequence[Values], going: Gone, damp: float
) -> np.ndarray:
    """Weights nearer to the goal, float64 like those given, [outputs, columns]."""
    columns = weights.shape[1] - stop.layer.shiftable
    second, missed, count = np.zeros((weights.shape[1],) * 2), np.zeros(weights.shape), 0.0
    for here, there in zip(now, before, strict=True):
        x = here[stop.layer.x]
        at = np.arange(stop.layer.positions(x.shape))
        wanted = _left(stop.layer.y, there, going)
        if wanted.size != len(at) * len(weights) or wanted.shape[-1] != len(weights):
            return weights
        for name in stop.beside:
            wanted = wanted + _left(name, there, going) - here[name]
        rows, goal = stop.layer.unfold(x, at)[0].astype(np.float64), there[stop.goal]
        rows = np.c_[rows, np.ones((len(at), int(stop.layer.shiftable)))]
        error = wanted.reshape(len(at), -1) - rows @ weights.T
        worth = np.ones((len(at), 1))
        if stop.relative and goal.size // goal.shape[-1] == len(at):
            worth = 1 / size(goal.reshape(len(at), -1)) ** 2
        second += (rows * worth).T @ rows
        missed += (error * worth).T @ rows
        count += len(at)
    second, missed = second / count, missed / count
    second[np.arange(columns), np.arange(columns)] += damp * np.diagonal(second)[:columns].mean()
    return weights + np.linalg.solve(second + 1e-12 * np.eye(len(second)), missed.T).T


def _left(name: str, values: Values, going: Gone) -> np.ndarray:
    """What a cut left of a tensor of the dense model."""
    result = values[name]
    for axis in range(result.ndim):
        if (gone := going.get(Dim(name, axis))) is not None:
            result = np.compress(~gone, result, axis=axis)
    return result
