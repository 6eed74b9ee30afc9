"""Set weights to zero in blocks that kernels can skip, the weights that are left making up for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphprune.calibration import Moments, layers
from graphprune.calibration.refit import write
from graphprune.errors import NothingToPruneError, UsageError
from graphprune.obs import damped
from graphprune.progress import track
from graphprune.rules import Dim
from graphprune.state import State

WIDE = 1024  # columns beyond which weights are scored once and refitted once


@dataclass(eq=False)
class _Block:
    """Rows of one layer that keep the same inputs.

    Attributes:
        targets: W and b of the dense model, float64 [rows, n + 1].
        second: H, damped, float64 [n + 1, n + 1].
        columns: the inputs there were, ascending.
        constant: the column of the bias, or nothing.
        worth: what a squared error counts.
        macs: multiply-accumulates that one input takes.
        weights: fitted to ``support``, float64 [rows, inputs kept].
        inverse: diagonal of the inverse of H on ``support``, [inputs kept].
        support: the inputs kept, ascending.
    """

    targets: np.ndarray
    second: np.ndarray
    columns: np.ndarray
    constant: np.ndarray
    worth: float
    macs: int
    weights: np.ndarray
    inverse: np.ndarray
    support: np.ndarray

    def prices(self) -> np.ndarray:
        """Error each input adds when it goes alone and the others make up for it, by multiply-accumulates saved."""
        return self.worth / self.macs * (self.weights**2).sum(0) / self.inverse

    def drop(self, at: np.ndarray) -> None:
        """Give up the inputs at these places of the support; narrow blocks are refitted at once."""
        self.support, self.inverse = np.delete(self.support, at), np.delete(self.inverse, at)
        self.weights = np.delete(self.weights, at, axis=1)
        if len(self.columns) <= WIDE:
            self.weights, self.inverse = _fit(self.targets, self.second, self.support, self.constant)

    def matrix(self) -> np.ndarray:
        """W and b refitted on what is left, zero elsewhere: float64 [rows, n + 1]."""
        kept = np.append(self.support, self.constant)
        result = np.zeros_like(self.targets)
        result[:, kept] = np.linalg.solve(self.second[np.ix_(kept, kept)], self.second[kept] @ self.targets.T).T
        return result


def _fit(
    targets: np.ndarray, second: np.ndarray, support: np.ndarray, constant: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """W refitted on the inputs in ``support``, [rows, support], and the diagonal of the inverse of H there."""
    kept, n = np.append(support, constant), len(support)
    inverse = np.linalg.inv(second[np.ix_(kept, kept)])
    return (targets @ second[:, kept] @ inverse)[:, :n], np.diagonal(inverse)[:n]


@dataclass(frozen=True)
class Sparsify:
    """Optimal Brain Surgeon for blocks of weights: one input of ``block`` neighbouring output channels.

    All layers compete in rounds: what adds least error for each multiply-accumulate it saves goes, then every block of
    rows is refitted exactly on the inputs it keeps, with the dense model's outputs as targets (Frantar & Alistarh 2022,
    "Optimal Brain Compression", section 4, for blocks; many at a time in place of one). Compiled models skip the zeros;
    in the ONNX file they are plain zeros. Layers applied once, such as a classifier's, stay dense.

    Attributes:
        ratio: share of the multiply-accumulates of these layers that are to meet a zero.
        block: output channels that share their zeros; 1 keeps most accuracy, 4 is fastest.
        rounds: how often weights are scored anew.
        floor: share of its inputs that every block keeps.
        damp: share of the mean input power added to every input.
    """

    ratio: float = 0.7
    block: int = 4
    rounds: int = 3
    floor: float = 0.05
    damp: float = 0.01

    approximate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        if not 0 <= self.ratio < 1:
            raise UsageError(f"a sparsity of {self.ratio} is not between 0 and 1", "0.7 makes 70 % zero")
        if min(self.block, self.rounds) < 1:
            raise UsageError("blocks and rounds of sparsify are at least 1", "sparsify(ratio=0.7, block=4, rounds=3)")

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, many of them zero."""
        calibration, going = state.data.get("calibration"), state.data.get("cut", {})
        if calibration is None:
            raise UsageError("sparsify needs calibrated layers", 'write "calibrate, ..., sparsify"')
        model = state.model.copy()
        found = layers(model)[0]
        parts: dict[str, list[list[_Block]]] = {}
        for name, (_, layer) in found.items():
            moments = calibration.moments.get(name)
            positions = layer.positions(tuple(size or 1 for size in model.shapes[layer.x]))
            if moments is not None and positions > 1 and moments.weights.shape[1] > 1:
                cuts = going.get(Dim(name, layer.summed)), going.get(Dim(name, 1 - layer.summed))
                parts[name] = [list(self._blocks(moments, positions, *part)) for part in moments.left(*cuts)]
        blocks = [block for made in parts.values() for part in made for block in part]
        if not blocks:
            raise NothingToPruneError(
                f"{model.name} has no layer whose weights can be made zero", "leave --sparsity out"
            )
        for step in track(range(self.rounds)):
            self._remove(blocks, self.ratio * (step + 1) / self.rounds)
        for name, made in parts.items():
            matrix = np.stack([np.concatenate([block.matrix() for block in part]) for part in made])
            write(model, *found[name], matrix[:, :, np.append(made[0][0].columns, -1)])
        macs = sum(b.macs * len(b.columns) for b in blocks)
        zero = 1 - sum(b.macs * len(b.support) for b in blocks) / macs
        note = (
            f"{zero:.0%} of the multiply-accumulates of {len(parts)} layers meet a zero, in blocks of {self.block} × 1"
        )
        notes = (*state.data.get("notes", ()), note)
        return replace(state, model=replace(model), data={**state.data, "sparsity": zero, "notes": notes})

    def _blocks(
        self, moments: Moments, positions: int, targets: np.ndarray, second: np.ndarray, columns: np.ndarray
    ) -> Iterator[_Block]:
        """The rows of one part of a layer, ``block`` at a time."""
        second, kept = damped(second, self.damp), columns
        columns, constant = np.split(kept, [len(kept) - moments.layer.shiftable])
        weights, inverse = _fit(targets, second, columns, constant)
        worth = 1 / (moments.energy or 1.0)
        for at in range(0, len(targets), self.block):
            rows = slice(at, at + self.block)
            macs = positions * len(targets[rows])
            yield _Block(targets[rows], second, columns, constant, worth, macs, weights[rows], inverse, columns)

    def _remove(self, blocks: Sequence[_Block], ratio: float) -> None:
        """Take columns from blocks until ``ratio`` of all multiply-accumulates are gone."""
        goal = sum(b.macs * (len(b.support) - (1 - ratio) * len(b.columns)) for b in blocks)
        prices, owner, column = [], [], []
        for k, block in enumerate(blocks):
            price = block.prices()
            spare = max(0, len(price) - max(1, round(self.floor * len(block.columns))))
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
