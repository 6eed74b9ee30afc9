"""Refit every layer on what the layers before it now make of real inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import affine, items, layers
from graphprune.calibration.activations import batched, chunks
from graphprune.calibration.destination import destination
from graphprune.calibration.refit import calibrated, write
from graphprune.calibration.statistics import tolerance
from graphprune.cut import Gone
from graphprune.model import Model
from graphprune.model.streaming import walk
from graphprune.progress import track
from graphprune.rules import Dim, Layer
from graphprune.state import State

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RefitInOrder:
    """Least squares towards the dense model's outputs, layer after layer, so that errors do not add up with depth.

    A layer reads what the layers before it, pruned and refitted, make of the real inputs; one that ends in a residual
    addition is asked to make up for what the shortcut has lost as well. Few inputs do not show everything, so the
    change of the weights is damped, as much as suits inputs that a fit has not seen: each half of them judges the fit
    to the other, and a layer that no fit helps keeps its weights. Then every channel is given the mean and, within
    ``limit``, the spread that it had: least squares predicts too little of it, and what layers lack adds up (Jordan et
    al. 2023, "REPAIR"). Made-up inputs alone mislead it, so that without real ones nothing is done; nor where weights
    were made zero, which it would undo.

    Attributes:
        damps: shares of the power of every input added to it, to choose from.
        limit: a channel is scaled by at most this factor, up or down.
        positions: so many of a tensor are looked at, and at least twice as many as the layer has columns.
        seed: of their choice.
    """

    damps: Sequence[float] = (0.1, 1.0, 10.0)
    limit: float = 1.3
    positions: int = 8192
    seed: int = 0

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, or the same state where there is nothing to go by."""
        real = calibrated(state, "refit_in_order").real
        if not real or not state.data.get("cut") or "sparsity" in state.data:
            return state
        model, dense = batched(state.model.copy()), batched(state.data["uncut"])
        made = {tensor.name for node in dense.graph.nodes for tensor in node.outputs}
        stops = [stop for stop in _stops(model) if stop.layer.y in made]
        batches = [batch for inputs in real for batch in chunks(dense, inputs)]
        counts = [items(batch) for batch in batches]
        here = walk(model, batches, [(s.layer.x, *s.beside) for s in stops])
        there = walk(dense, batches, [(s.layer.y, *s.beside) for s in stops])
        for k, (stop, now, before) in enumerate(zip(track(stops), here, there, strict=True)):
            weights = affine(model, stop.node, stop.layer)
            share = max(self.positions, 2 * weights.shape[2]) / stop.positions(now)
            rng = np.random.default_rng([self.seed, k])
            problem = stop.problem(list(zip(now, before, counts, strict=True)), state.data["cut"], share, rng)
            if problem is not None and (fitted := self._fitted(weights, *problem)) is not None:
                write(model, stop.node, stop.layer, fitted)
        data = {**state.data, "refitted_in_order": True}
        return replace(state, model=replace(model, header=state.model.header), data=data)

    def _fitted(self, weights: np.ndarray, x: np.ndarray, y: np.ndarray, judge: np.ndarray) -> np.ndarray | None:
        """New W and b, or ``None`` where the old ones are right.

        Args:
            weights: W and b, float64 [parts, outputs, n + 1].
            x: what they read, ending in a 1: float64 [parts, rows, n + 1].
            y: what they should make of it, float64 [parts, rows, outputs].
            judge: which rows are of the one half of the items, bool [rows].
        """
        lacking = y - x @ weights.swapaxes(1, 2)
        if np.square(lacking).sum() <= 1e-12 * np.square(y).sum():
            return None
        before, after = 0.0, dict.fromkeys(self.damps, 0.0)
        for half in (judge, ~judge):
            before += np.square(lacking[:, half]).sum()
            for damp in self.damps:
                change = _change(x[:, ~half], lacking[:, ~half], damp)
                after[damp] += np.square(lacking[:, half] - x[:, half] @ change).sum()
        best = min(after, key=after.__getitem__)
        if after[best] < before:
            weights = weights + _change(x, lacking, best).swapaxes(1, 2)
        made, spread = x @ weights.swapaxes(1, 2), y.std(axis=1)
        least = tolerance(spread.mean(axis=1, keepdims=True))
        scale = np.clip((spread + least) / (made.std(axis=1) + least), 1 / self.limit, self.limit)
        weights = weights * scale[:, :, None]
        weights[:, :, -1] += y.mean(axis=1) - scale * made.mean(axis=1)
        return weights


def _change(x: np.ndarray, lacking: np.ndarray, damp: float) -> np.ndarray:
    """The change of the weights that makes most of what is lacking, float64 [parts, n + 1, outputs]."""
    second = x.swapaxes(1, 2) @ x
    power = np.einsum("pii->pi", second)[:, :-1].copy()
    at = np.arange(power.shape[1])
    second[:, at, at] += damp * power + 1e-6 * power.mean(axis=1, keepdims=True) + 1e-12
    return np.linalg.solve(second, x.swapaxes(1, 2) @ lacking)


@dataclass(frozen=True, eq=False)
class _Stop:
    """A layer and, where its output is added to something that was there before, what that is."""

    node: gs.Node
    layer: Layer
    beside: tuple[str, ...]

    def positions(self, batches: Sequence[Values]) -> int:
        """Positions of all batches together."""
        return sum(self.layer.positions(values[self.layer.x].shape) for values in batches)

    def problem(
        self, batches: Sequence[tuple[Values, Values, int]], going: Gone, share: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The x, y and judge of ``RefitInOrder._fitted``; ``None`` where y is not one row for every position of x.

        Args:
            batches: values in the cut model, in the dense one, and how many items they are of.
            going: which positions of the dense model's axes went.
            share: of the positions to look at.
            rng: chooses them.
        """
        weight = self.node.inputs[1].values
        axis, outputs = (1 if weight.ndim > 2 else -1), weight.shape[1 - self.layer.summed]
        gone = going.get(Dim(self.layer.weight, 1 - self.layer.summed), np.zeros(outputs, bool))
        x, y, judge, start = [], [], [], 0
        for now, before, count in batches:
            source = now[self.layer.x]
            there = self.layer.positions(source.shape)
            at = np.sort(rng.choice(there, min(there, math.ceil(share * there)), replace=False))
            wanted = before[self.layer.y]
            if wanted.size != there * len(gone) or any(before[name].shape != wanted.shape for name in self.beside):
                return None
            target = _rows(wanted, axis, at)[:, ~gone]
            for name in self.beside:
                target += _rows(before[name], axis, at)[:, ~gone] - _rows(now[name], axis, at)
            columns = self.layer.unfold(source, at).astype(np.float64)
            x.append(np.concatenate([columns, np.ones((*columns.shape[:2], 1))], axis=2))
            y.append(target.reshape(len(at), len(columns), -1).swapaxes(0, 1))
            judge.append((start + at * count // there) % 2 == 0)
            start += count
        return np.concatenate(x, axis=1), np.concatenate(y, axis=1), np.concatenate(judge)


def _stops(model: Model) -> Iterator[_Stop]:
    """The layers that can be given a bias, in the order of the graph."""
    place = {tensor.name: k for k, node in enumerate(model.graph.nodes) for tensor in node.outputs}
    for node, layer in layers(model)[0].values():
        if layer.shiftable:
            other = destination(node).beside
            before = other is not None and place.get(other.name, -1) < place[layer.y]
            yield _Stop(node, layer, (other.name,) if other is not None and before else ())


def _rows(y: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """Some positions of a tensor with its channels on an axis, float64 [positions, channels]."""
    moved = np.moveaxis(y, axis, -1)
    return moved.reshape(-1, moved.shape[-1])[at].astype(np.float64)
