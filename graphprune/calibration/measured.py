"""Second moments of what flows into every layer, and of what its output becomes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import POSITIONS, Inputs, chunks, positions, run
from graphprune.calibration.destination import destination, normalised, size
from graphprune.model import Model
from graphprune.model.streaming import walk
from graphprune.progress import track
from graphprune.rules import Layer

THREADS = min(4, os.cpu_count() or 1)  # layers looked at at a time
BLOCK = 1536  # rows of second moments added at a time, those below the blocks on the diagonal left out
WIDEST = 6144  # columns of the largest problem: its matrices take 300 MB each

Found = Mapping[str, tuple[gs.Node, Layer]]
"""Layers by the name of their weight."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Of ``count`` positions: ``second`` as in ``Moments``, and the covariance of the tensor the output ends up in."""

    second: np.ndarray
    covariance: np.ndarray
    count: int


def columns(model: Model, name: str, layer: Layer) -> int:
    """Inputs of one part of a layer, but for grouped convolutions, where it is those of all."""
    return int(model.constants[name].shape[layer.summed]) * layer.taps


def sampled(model: Model, found: Found, inputs: Inputs, seed: int) -> dict[str, Measured]:
    """Some positions of every layer, the whole model run on a few inputs at a time."""
    sums = _Sums(found)
    total = max((len(x) for x in inputs.values() if x.ndim), default=1)
    wanted = {name: max(POSITIONS, 2 * columns(model, name, layer)) for name, (_, layer) in found.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk, values in enumerate(run(model, sums.wanted, inputs)):
            sizes = [len(values[name]) for name, x in inputs.items() if x.ndim and name in values]
            share = max(sizes, default=1) / total
            jobs = [
                pool.submit(sums.some, name, values, share * number, (seed, chunk, k))
                for k, (name, number) in enumerate(wanted.items())
            ]
            for job in jobs:
                job.result()
            values.clear()  # before there are new ones
    return sums.measured()


def walked(model: Model, found: Found, inputs: Inputs) -> dict[str, Measured]:
    """Every position of every layer, one layer after another for all inputs: no more is held than one layer needs."""
    sums = _Sums(found)
    stops = [(layer.x, sums.goal[name].name) for name, (_, layer) in found.items()]
    for name, seen in zip(track(list(found)), walk(model, chunks(model, inputs), stops), strict=True):
        layer = found[name][1]
        for values in _joined(seen, layer):
            sums.add(name, values, np.arange(layer.positions(values[layer.x].shape)), np.float32)
    return sums.measured()


def _joined(batches: Sequence[Mapping[str, np.ndarray]], layer: Layer) -> Iterator[dict[str, np.ndarray]]:
    """Values of several batches as one, of ``POSITIONS`` or a few more: adding moments up costs as much as these."""
    start, there = 0, 0
    for k, values in enumerate(batches, 1):
        there += layer.positions(values[layer.x].shape)
        if there >= POSITIONS or k == len(batches):
            yield {name: np.concatenate([batch[name] for batch in batches[start:k]]) for name in values}
            start, there = k, 0


def mixed(known: dict[str, Measured], new: dict[str, Measured], share: float) -> dict[str, Measured]:
    """Moments of which ``share`` come from ``new``; both are used up, so that nothing is held twice."""
    common: dict[int, np.ndarray] = {}  # layers whose outputs end up in one tensor have its covariance in common
    for name, before in known.items():
        now = new[name]
        now.second[...] *= share
        before.second[...] *= 1 - share
        now.second[...] += before.second
        if id(now.covariance) not in common:
            common[id(now.covariance)] = share * now.covariance + (1 - share) * before.covariance
        known[name] = Measured(now.second, common[id(now.covariance)], now.count + before.count)
    return known or new


class _Sums:
    """Sums over positions, so far; x and y end in a 1."""

    def __init__(self, found: Found) -> None:
        self.goal = {name: destination(node).tensor for name, (node, _) in found.items()}
        self._layers = {name: layer for name, (_, layer) in found.items()}
        self._relative = {tensor.name for tensor in self.goal.values() if normalised(tensor)}
        self._first = {tensor.name: name for name, tensor in reversed(self.goal.items())}
        self._second: dict[str, np.ndarray] = {}  # of x xᵀ, by layer
        self._count: dict[str, int] = {}
        self._goals: dict[str, np.ndarray] = {}  # of y yᵀ, by tensor

    @property
    def wanted(self) -> list[str]:
        """The tensors whose values are looked at."""
        return list(dict.fromkeys(n for name, layer in self._layers.items() for n in (layer.x, self.goal[name].name)))

    def some(self, name: str, values: Mapping[str, np.ndarray], number: float, seed: Sequence[int]) -> None:
        """Count about so many positions of a layer, drawn; layers may be counted at the same time."""
        layer = self._layers[name]
        there = layer.positions(values[layer.x].shape)
        drawn = np.random.default_rng(seed).choice(there, min(there, max(1, round(number))), replace=False)
        self.add(name, values, np.sort(drawn), np.float64)

    def add(self, name: str, values: Mapping[str, np.ndarray], at: np.ndarray, precision: type) -> None:
        """Count some positions of a layer, and what its output becomes where no layer before it has that in common."""
        layer, goal = self._layers[name], self.goal[name].name
        y = values[goal]
        rows: np.ndarray = layer.unfold(values[layer.x], at).astype(precision)
        rows = np.concatenate([rows, np.ones((*rows.shape[:2], 1), precision)], axis=2)
        there = layer.positions(values[layer.x].shape)
        if goal in self._relative and y.size // y.shape[-1] == there:
            rows /= size(y.reshape(there, -1)[at]).astype(precision)
        if name not in self._second:
            self._second[name] = np.zeros((len(rows), rows.shape[2], rows.shape[2]))
        for k in range(0, rows.shape[2], BLOCK):
            some = rows[:, :, k : k + BLOCK]
            self._second[name][:, k : k + BLOCK, k:] += some.swapaxes(1, 2) @ rows[:, :, k:]
        self._count[name] = self._count.get(name, 0) + len(at)
        if self._first[goal] == name:
            seen = positions(y)
            worth = size(seen) if goal in self._relative else 1.0
            seen = seen[:, :WIDEST]  # of more, only how much it varies in all is wanted
            seen = np.c_[seen, np.ones(len(seen))] / worth
            self._goals[goal] = self._goals.get(goal, 0.0) + seen.T @ seen

    def measured(self) -> dict[str, Measured]:
        """The moments."""
        covariance = {name: _covariance(self._goals.pop(name)) for name in list(self._goals)}
        for second in self._second.values():  # in place: of a large model they are most of what is held
            second /= second[0, -1, -1]
            for k in range(BLOCK, second.shape[2], BLOCK):  # what ``add`` leaves out
                second[:, k:, k - BLOCK : k] = second[:, k - BLOCK : k, k:].swapaxes(1, 2)
        return {
            name: Measured(self._second[name], covariance[goal.name], self._count[name])
            for name, goal in self.goal.items()
        }


def _covariance(sums: np.ndarray) -> np.ndarray:
    mean = sums[-1, :-1] / sums[-1, -1]
    return sums[:-1, :-1] / sums[-1, -1] - np.outer(mean, mean)
