"""Zeros inside layers: Optimal Brain Surgeon for blocks of weights, one input of a few neighbouring outputs.

Blocks of rows that keep the same inputs lose them one after another, each time what adds least error once all others
have made up for it; what every loss adds is noted, so that any amount can be taken later. What is left is fitted
exactly, with the dense model's outputs as targets (Frantar & Alistarh 2022, "Optimal Brain Compression", sections 4 and
5, for blocks; a few inputs at a time where there are many).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Moments, layers
from graphprune.calibration.refit import write
from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.model import Model
from graphprune.obs import damped
from graphprune.progress import track
from graphprune.rules import Dim
from graphprune.state import State

STEPS = 32  # in which a block loses its inputs, if it has more of them
SHRINK = 0.8  # share of inputs left below which what is gone is left behind
WORK = 1e12  # operations spent on the losses of one layer; beyond, inputs are scored once, as if they went alone
WIDE = 1024  # columns beyond which patterns are scored once

Supports = Mapping[str, Sequence[np.ndarray]]
"""By weight: the inputs that each of its blocks keeps, ascending."""


@dataclass(frozen=True, eq=False)
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
    """

    targets: np.ndarray
    second: np.ndarray
    columns: np.ndarray
    constant: np.ndarray
    worth: np.ndarray
    macs: int
    taps: int

    def fitted(self, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W and b refitted on some inputs, [rows, support + constant], and the inverse of H there."""
        kept = np.append(support, self.constant)
        inverse = np.linalg.inv(self.second[np.ix_(kept, kept)])
        return self.targets @ self.second[:, kept] @ inverse, inverse

    def prices(self, weights: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Error each input adds when it goes alone and the others make up for it."""
        n = weights.shape[1] - len(self.constant)
        return np.einsum("ik,ik->k", weights[:, :n], self.worth @ weights[:, :n]) / np.diagonal(inverse)[:n]

    def matrix(self, support: np.ndarray) -> np.ndarray:
        """W and b refitted on some inputs, zero elsewhere: float64 [rows, n + 1]."""
        kept = np.append(support, self.constant)
        result = np.zeros_like(self.targets)
        result[:, kept] = np.linalg.solve(self.second[np.ix_(kept, kept)], self.second[kept] @ self.targets.T).T
        return result

    def error(self, matrix: np.ndarray) -> float:
        """What W and b in the place of the dense model's cost."""
        lost = self.targets - matrix
        return float((self.worth * (lost @ self.second @ lost.T)).sum())


@dataclass(frozen=True, eq=False)
class Losses:
    """How a block loses its inputs.

    Attributes:
        order: its inputs, the first to go first.
        added: the error that each adds, float64 [inputs].
    """

    order: np.ndarray
    added: np.ndarray

    def left(self, count: int) -> np.ndarray:
        """The inputs there are once ``count`` are gone, ascending."""
        return np.sort(self.order[count:])


@dataclass(frozen=True, eq=False)
class Zeros:
    """The layers of a model whose weights can be made zero, as blocks.

    Attributes:
        parts: by weight, for each part of the layer its blocks from the first row on.
        size: rows of a block.
        damp: share of the mean input power added to every input.
    """

    parts: Mapping[str, list[list[Block]]]
    size: int
    damp: float

    def of(self, name: str) -> list[Block]:
        """The blocks of one layer."""
        return [block for part in self.parts[name] for block in part]

    def share(self, supports: Supports) -> float:
        """Share of the multiply-accumulates that meet a zero."""
        blocks = [block for name in self.parts for block in self.of(name)]
        left = [support for name in self.parts for support in supports[name]]
        macs = sum(b.macs * len(b.columns) for b in blocks)
        return 1 - sum(b.macs * len(s) for b, s in zip(blocks, left, strict=True)) / macs

    def losses(self) -> dict[str, list[Losses]]:
        """How every block of every layer loses its inputs."""
        parts = [(name, part) for name, made in self.parts.items() for part in made]
        found: dict[str, list[Losses]] = {name: [] for name in self.parts}
        for name, part in track(parts):
            n = len(part[0].columns)
            if len(part) * n**3 * 2 / 3 <= WORK:
                inverse = part[0].fitted(part[0].columns)[1]
                found[name] += [_losses(block, inverse) for block in part]
            else:
                found[name] += _losses_alone(part)
        return found

    def written(self, model: Model, supports: Supports) -> Model:
        """A model with the weights fitted to what is kept."""
        model = model.copy()
        found = layers(model)[0]
        for name, made in self.parts.items():
            left = iter(supports[name])
            matrices = [np.concatenate([block.matrix(next(left)) for block in part]) for part in made]
            write(model, *found[name], np.stack(matrices)[:, :, np.append(made[0][0].columns, -1)])
        return replace(model)


def _losses(block: Block, inverse: np.ndarray) -> Losses:
    """All but one of the inputs go, the others making up for them; ``inverse`` is that of H on all of them.

    Taking the inputs S away changes W by -W[:, S] C⁻¹ H⁻¹[S] and H⁻¹ by -H⁻¹[:, S] C⁻¹ H⁻¹[S], with C = H⁻¹[S, S], and
    adds the error tr(M W[:, S] C⁻¹ W[:, S]ᵀ).
    """
    n, at_once = len(block.columns), max(1, len(block.columns) // STEPS)
    at = np.arange(n)  # the inputs that are still there, or were when last looked
    alive = np.ones(n, bool)
    weights = block.targets @ block.second[:, np.append(block.columns, block.constant)] @ inverse
    inverse = inverse.copy()
    order, added = np.arange(n), np.zeros(n)
    done = 0
    while done < n - 1:
        prices = np.where(alive, block.prices(weights, inverse), np.inf)
        count = min(at_once, n - 1 - done)
        going = np.argpartition(prices, count - 1)[:count]
        going = going[np.argsort(prices[going], kind="stable")]
        lost = weights[:, going]
        solved = np.linalg.solve(inverse[np.ix_(going, going)], np.hstack([inverse[going], lost.T]))
        change, shares = solved[:, : len(inverse)], solved[:, len(inverse) :]
        together = (block.worth @ lost * shares.T).sum()
        alone = prices[going]
        order[done : done + count] = at[going]
        added[done : done + count] = alone * (together / (alone.sum() or 1.0))
        weights -= lost @ change
        inverse -= inverse[:, going] @ change
        inverse[going, going] = 1.0  # so that nothing is divided by nothing
        alive[going] = False
        done += count
        if n - done < SHRINK * len(at):
            kept = np.append(np.flatnonzero(alive), np.arange(len(at), len(inverse)))
            inverse, weights = inverse[np.ix_(kept, kept)], weights[:, kept]
            at, alive = at[alive], np.ones(n - done, bool)
    order[done:] = at[alive]
    added[done:] = np.inf
    return Losses(block.columns[order], np.maximum(added, 0.0))


def _losses_alone(part: Sequence[Block]) -> list[Losses]:
    """The same for many wide blocks, as if every input went alone."""
    inverse = part[0].fitted(part[0].columns)[1]
    found = []
    for block in part:
        weights = block.targets @ block.second[:, np.append(block.columns, block.constant)] @ inverse
        prices = block.prices(weights, inverse)
        order = np.argsort(prices, kind="stable")
        found.append(Losses(block.columns[order], np.maximum(prices[order], 0.0)))
    return found


@dataclass(frozen=True, eq=False)
class Curve:
    """One layer at some levels of zeros, ascending from none.

    Attributes:
        levels: share of its multiply-accumulates that meet a zero, float64 [levels].
        errors: of its outputs, as they matter, float64 [levels].
        milliseconds: of its kernel, never more than with fewer zeros, float64 [levels].
    """

    levels: np.ndarray
    errors: np.ndarray
    milliseconds: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """All layers, by weight.

    Attributes:
        zeros: the layers.
        losses: how their blocks lose their inputs.
        layers: what levels of zeros cost and save.
        rest: milliseconds of what is no such layer.
    """

    zeros: Zeros
    losses: Mapping[str, Sequence[Losses]]
    layers: Mapping[str, Curve]
    rest: float

    def within(self, milliseconds: float) -> dict[str, float]:
        """A level of zeros for every layer: least error for a whole model that takes so long.

        At a price for time every layer takes the level that is cheapest for it; between the last price that is too low
        and the first that is not, levels are mixed.

        Raises:
            TargetNotReachedError: the most zeros there may be are too few.
        """
        high = 1.0
        while (least := self.time(self._at(high))) > milliseconds:
            high *= 8
            if high > 1e15:
                raise TargetNotReachedError(
                    f"zeros make it {least:.3g} ms at least, and {milliseconds:.3g} ms are wanted",
                    "remove channels as well",
                )
        low, high = _first(lambda price: self.time(self._at(price)) <= milliseconds, 0.0, high)
        few, many = self._at(low), self._at(high)

        def mixed(share: float) -> dict[str, float]:
            return {name: few[name] + share * (many[name] - few[name]) for name in few}

        return mixed(_first(lambda share: self.time(mixed(share)) <= milliseconds, 0.0, 1.0)[1])

    def time(self, levels: Mapping[str, float]) -> float:
        """Milliseconds of the whole model, as predicted from those of its layers."""
        return self.rest + self._total(levels, lambda curve: curve.milliseconds)

    def error(self, levels: Mapping[str, float]) -> float:
        """Of the outputs, as predicted from those of the layers."""
        return self._total(levels, lambda curve: curve.errors)

    def _total(self, levels: Mapping[str, float], along: Callable[[Curve], np.ndarray]) -> float:
        curves = ((self.layers[name], level) for name, level in levels.items())
        return sum(float(np.interp(level, curve.levels, along(curve))) for curve, level in curves)

    def _at(self, price: float) -> dict[str, float]:
        return {n: float(c.levels[np.argmin(c.errors + price * c.milliseconds)]) for n, c in self.layers.items()}


def _first(good: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Where ``good`` begins to hold, from both sides."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return low, high


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
    return Zeros(parts, size, damp)


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
        made = []
        for at in range(0, len(targets), size):
            of = slice(at, at + size)
            worth, macs = own[of, of] / (moments.energy or 1.0), positions * len(targets[of])
            made.append(Block(targets[of], second, columns, constant, worth, macs, moments.layer.taps))
        yield made


def cheapest(
    blocks: Sequence[Block], losses: Sequence[Losses], ratio: float, floor: float
) -> tuple[list[np.ndarray], float]:
    """What blocks keep once ``ratio`` of all their multiply-accumulates are gone, and the error that adds.

    What adds least error for each of them goes first. Every block keeps the share ``floor`` of its inputs.
    """
    goal = ratio * sum(b.macs * len(b.columns) for b in blocks)
    spare = [max(0, len(b.columns) - max(1, round(floor * len(b.columns)))) for b in blocks]
    # An input that is cheap only once a dearer one is gone has to wait for it.
    prices = [np.maximum.accumulate(one.added[:n]) / b.macs for b, one, n in zip(blocks, losses, spare, strict=True)]
    owners = np.repeat(np.arange(len(blocks)), spare)
    order = np.argsort(np.concatenate(prices), kind="stable")
    saved = np.cumsum(np.array([b.macs for b in blocks])[owners[order]])
    counts = np.bincount(owners[order[: int(np.searchsorted(saved, goal))]], minlength=len(blocks))
    error = sum(float(one.added[:count].sum()) for one, count in zip(losses, counts, strict=True))
    return [one.left(count) for one, count in zip(losses, counts, strict=True)], error


def in_groups(part: Sequence[Block], most: int, size: int) -> Iterator[np.ndarray]:
    """What blocks of a part keep with at most ``most`` of every ``size`` neighbouring input channels, tap by tap.

    N:M sparsity, N of M left. One input of every group goes at a time, the rest being refitted in between.
    """
    columns = part[0].columns
    inverse = part[0].fitted(columns)[1]
    for block in part:
        support, weights = columns, block.targets @ block.second[:, np.append(columns, block.constant)] @ inverse
        prices = block.prices(weights, inverse)
        while True:
            channel, tap = np.divmod(support, block.taps)
            _, group = np.unique(channel // size * block.taps + tap, return_inverse=True)
            order = np.lexsort((prices, group))
            first = order[np.append(True, np.diff(group[order]) > 0)]  # the cheapest of every group
            going = first[np.bincount(group)[group[first]] > most]
            if not len(going):
                break
            support = np.delete(support, going)
            prices = block.prices(*block.fitted(support)) if len(columns) <= WIDE else np.delete(prices, going)
        yield support
