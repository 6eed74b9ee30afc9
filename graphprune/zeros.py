"""Zeros inside layers: Optimal Brain Surgeon for blocks of weights, one input of a few neighbouring outputs.

Blocks of rows that keep the same inputs are refitted exactly on them, with the dense model's outputs as targets
(Frantar & Alistarh 2022, "Optimal Brain Compression", section 4, for blocks; many inputs at a time in place of one).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Moments, layers
from graphprune.calibration.refit import write
from graphprune.errors import NothingToPruneError, UsageError
from graphprune.model import Model
from graphprune.obs import damped
from graphprune.progress import track
from graphprune.rules import Dim
from graphprune.state import State

WIDE = 1024  # columns beyond which weights are scored once and refitted once


@dataclass(eq=False)
class Block:
    """Rows of one layer that keep the same inputs.

    Attributes:
        targets: W and b of the dense model, float64 [rows, n + 1].
        second: H, damped, float64 [n + 1, n + 1].
        columns: the inputs there were, ascending.
        constant: the column of the bias, or nothing.
        worth: what errors of two rows count, float64 [rows, rows].
        macs: multiply-accumulates that one input takes.
        taps: columns of one input channel.
        weights: fitted to ``support``, float64 [rows, inputs kept].
        inverse: diagonal of the inverse of H on ``support``, [inputs kept].
        support: the inputs kept, ascending.
    """

    targets: np.ndarray
    second: np.ndarray
    columns: np.ndarray
    constant: np.ndarray
    worth: np.ndarray
    macs: int
    taps: int
    weights: np.ndarray
    inverse: np.ndarray
    support: np.ndarray

    def prices(self) -> np.ndarray:
        """Error each input adds when it goes alone and the others make up for it, by multiply-accumulates saved."""
        return np.einsum("ik,ij,jk->k", self.weights, self.worth, self.weights) / self.inverse / self.macs

    def drop(self, at: np.ndarray) -> None:
        """Give up the inputs at these places of the support; narrow blocks are refitted at once."""
        self.support, self.inverse = np.delete(self.support, at), np.delete(self.inverse, at)
        self.weights = np.delete(self.weights, at, axis=1)
        if len(self.columns) <= WIDE:
            self.keep(self.support)

    def keep(self, support: np.ndarray) -> None:
        """Keep these inputs, and refit."""
        self.support = support
        self.weights, self.inverse = _fit(self.targets, self.second, support, self.constant)

    def matrix(self) -> np.ndarray:
        """W and b refitted on what is left, zero elsewhere: float64 [rows, n + 1]."""
        kept = np.append(self.support, self.constant)
        result = np.zeros_like(self.targets)
        result[:, kept] = np.linalg.solve(self.second[np.ix_(kept, kept)], self.second[kept] @ self.targets.T).T
        return result

    def error(self, matrix: np.ndarray) -> float:
        """What W and b in the place of the dense model's cost."""
        lost = self.targets - matrix
        return float((self.worth * (lost @ self.second @ lost.T)).sum())


def _fit(
    targets: np.ndarray, second: np.ndarray, support: np.ndarray, constant: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """W refitted on the inputs in ``support``, [rows, support], and the diagonal of the inverse of H there."""
    kept, n = np.append(support, constant), len(support)
    inverse = np.linalg.inv(second[np.ix_(kept, kept)])
    return (targets @ second[:, kept] @ inverse)[:, :n], np.diagonal(inverse)[:n]


@dataclass(frozen=True, eq=False)
class Zeros:
    """The layers of a model whose weights can be made zero, as blocks.

    Attributes:
        parts: by weight, for each part of the layer its blocks from the first row on.
    """

    parts: Mapping[str, list[list[Block]]]

    @property
    def blocks(self) -> list[Block]:
        """The blocks of all layers."""
        return [block for name in self.parts for block in self.of(name)]

    def of(self, name: str) -> list[Block]:
        """The blocks of one layer."""
        return [block for part in self.parts[name] for block in part]

    @property
    def share(self) -> float:
        """Share of the multiply-accumulates that meet a zero."""
        macs = sum(b.macs * len(b.columns) for b in self.blocks)
        return 1 - sum(b.macs * len(b.support) for b in self.blocks) / macs

    def written(self, model: Model) -> tuple[Model, dict[str, float]]:
        """A model with the weights fitted to what is kept, and the error of each layer."""
        model, errors = model.copy(), {}
        found = layers(model)[0]
        for name, made in self.parts.items():
            errors[name], matrices = 0.0, []
            for part in made:
                fitted = [block.matrix() for block in part]
                errors[name] += sum(block.error(m) for block, m in zip(part, fitted, strict=True))
                matrices.append(np.concatenate(fitted))
            write(model, *found[name], np.stack(matrices)[:, :, np.append(made[0][0].columns, -1)])
        return replace(model), errors


@dataclass(frozen=True, eq=False)
class Curve:
    """One layer at some levels of zeros, ascending from none.

    Attributes:
        levels: share of its multiply-accumulates that meet a zero, float64 [levels].
        errors: of its outputs, as they matter, float64 [levels].
        milliseconds: of its kernel, never more than with fewer zeros, float64 [levels].
        supports: what every block keeps, by level.
    """

    levels: np.ndarray
    errors: np.ndarray
    milliseconds: np.ndarray
    supports: list[list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Curves:
    """All layers, by weight, and the milliseconds of what is no such layer."""

    layers: Mapping[str, Curve]
    rest: float


def dense(state: State, size: int, damp: float) -> Zeros:
    """All layers as they are, in blocks of ``size`` rows. Layers applied once, such as a classifier's, are left out.

    Raises:
        NothingToPruneError: there is no such layer.
        UsageError: the layers were not calibrated.
    """
    calibration, going = state.data.get("calibration"), state.data.get("cut", {})
    if calibration is None:
        raise UsageError("zeros need calibrated layers", 'write "calibrate, ..., sparsify"')
    parts: dict[str, list[list[Block]]] = {}
    for name, (_, layer) in layers(state.model)[0].items():
        moments = calibration.moments.get(name)
        positions = layer.positions(tuple(n or 1 for n in state.model.shapes[layer.x]))
        if moments is not None and positions > 1 and moments.weights.shape[1] > 1:
            cuts = going.get(Dim(name, layer.summed)), going.get(Dim(name, 1 - layer.summed))
            parts[name] = list(_parts(moments, positions, *cuts, size, damp))
    if not parts:
        raise NothingToPruneError(
            f"{state.model.name} has no layer whose weights can be made zero", "leave --sparsity out"
        )
    return Zeros(parts)


def _parts(
    moments: Moments, positions: int, inputs: np.ndarray | None, outputs: np.ndarray | None, size: int, damp: float
) -> Iterator[list[Block]]:
    """The blocks of every part of a layer, after a cut."""
    parts, rows, _ = moments.weights.shape
    gone = np.zeros(parts * rows, bool) if outputs is None else np.repeat(outputs, parts * rows // len(outputs))
    matters = moments.importance
    for number, (targets, second, kept) in enumerate(moments.left(inputs, outputs)):
        alive = number * rows + np.flatnonzero(~gone.reshape(parts, rows)[number])
        own = np.eye(len(alive)) if matters is None or len(matters) != len(gone) else matters[np.ix_(alive, alive)]
        second = damped(second, damp)
        columns, constant = np.split(kept, [len(kept) - moments.layer.shiftable])
        weights, inverse = _fit(targets, second, columns, constant)
        made = []
        for at in range(0, len(targets), size):
            of = slice(at, at + size)
            worth, macs = own[of, of] / (moments.energy or 1.0), positions * len(targets[of])
            made.append(
                Block(
                    targets[of],
                    second,
                    columns,
                    constant,
                    worth,
                    macs,
                    moments.layer.taps,
                    weights[of],
                    inverse,
                    columns,
                )
            )
        yield made


def remove(blocks: Sequence[Block], ratio: float, floor: float) -> None:
    """Take inputs from blocks until ``ratio`` of all multiply-accumulates are gone, what adds least error for it first.

    Every block keeps the share ``floor`` of its inputs.
    """
    goal = sum(b.macs * (len(b.support) - (1 - ratio) * len(b.columns)) for b in blocks)
    prices, owner, column = [], [], []
    for k, block in enumerate(blocks):
        price = block.prices()
        spare = max(0, len(price) - max(1, round(floor * len(block.columns))))
        cheapest = np.argsort(price, kind="stable")[:spare]
        prices.append(price[cheapest])
        owner.append(np.full(spare, k))
        column.append(cheapest)
    owners, columns = np.concatenate(owner), np.concatenate(column)
    order = np.argsort(np.concatenate(prices), kind="stable")
    saved = np.cumsum(np.array([b.macs for b in blocks])[owners[order]])
    chosen = order[: int(np.searchsorted(saved, goal))]
    for k in track(np.unique(owners[chosen])):
        blocks[k].drop(columns[chosen[owners[chosen] == k]])


def remove_in_groups(blocks: Sequence[Block], most: int, size: int) -> None:
    """Leave at most ``most`` of every ``size`` neighbouring input channels, tap by tap: N:M sparsity, N of M left.

    One input of every group goes at a time, the rest being refitted in between.
    """
    for block in track(blocks):
        while True:
            channel, tap = np.divmod(block.support, block.taps)
            _, group = np.unique(channel // size * block.taps + tap, return_inverse=True)
            order = np.lexsort((block.prices(), group))
            first = order[np.append(True, np.diff(group[order]) > 0)]  # the cheapest of every group
            going = first[np.bincount(group)[group[first]] > most]
            if not len(going):
                break
            block.drop(going)
