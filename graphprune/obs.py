"""Optimal Brain Surgeon for whole groups of coupled columns: which unit costs least, and the best weights without it.

Hassibi & Stork 1993 for one weight, Frantar & Alistarh 2022, "Optimal Brain Compression", section 4, for the downdates
of an inverse; here a unit owns a block of columns in every layer that reads it, and goes from all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.progress import track

EXACT = 1e-13  # share of the power of an output that counts as none
THICKEST = 64  # columns of a product that is not yet carried out


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer (or one part of a grouped convolution) that reads the units of a group.

    Attributes:
        weights: W, float64 [outputs, n].
        second: H, mean of x xᵀ, damped: float64 [n, n], positive definite.
        columns: which columns of W each unit owns: int64 [units, p].
        worth: what a unit of squared error counts.
    """

    weights: np.ndarray
    second: np.ndarray
    columns: np.ndarray
    worth: float = 1.0


def damped(second: np.ndarray, damp: float) -> np.ndarray:
    """H with ``damp`` times its mean diagonal added, but next to nothing for the constant in the last column.

    Inputs that are always zero, alike, or fewer than columns leave H without an inverse; this gives it one.
    """
    result = second.copy()
    columns = len(result) - 1
    mean = np.trace(result[:-1, :-1]) / max(columns, 1)
    result[np.arange(columns), np.arange(columns)] += damp * mean if mean else 1.0
    result[-1, -1] += 1e-9
    return result


def fit(weights: np.ndarray, second: np.ndarray, kept: np.ndarray, damp: float) -> np.ndarray:
    """The least-squares weights on the ``kept`` columns: W H[:, S] (H[S, S])⁻¹, float64 [outputs, kept].

    Damping guards against what few samples happen to say; where the kept columns can do without any loss, as for dead
    and duplicate inputs, it has nothing to guard and is left out.
    """

    def solved(damping: float) -> np.ndarray:
        matrix = damped(second, damping)
        return np.linalg.solve(matrix[np.ix_(kept, kept)], matrix[kept] @ weights.T).T

    exact = solved(EXACT)
    power = float(np.einsum("oi,ij,oj->", weights, second, weights, optimize=True))
    return exact if error(weights, second, exact, kept) <= EXACT * power else solved(damp)


def error(weights: np.ndarray, second: np.ndarray, fitted: np.ndarray, kept: np.ndarray) -> float:
    """Mean squared error, summed over outputs, of ``fitted`` weights on the ``kept`` columns."""
    difference = weights.copy()
    difference[:, kept] -= fitted
    return float(np.einsum("oi,ij,oj->", difference, second, difference, optimize=True))


class _Lazy:
    """A matrix less a product of two thin ones, which is carried out when it has grown ``THICKEST``.

    The same numbers as a small update at a time, with a fraction of the memory traffic.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        self._left, self._right, self._t = np.empty((len(matrix), 0)), np.empty((0, len(matrix))), 0

    def rows(self, at: slice) -> np.ndarray:
        """Some rows of the difference."""
        return self.matrix[at] - self._left[at, : self._t] @ self._right[: self._t]

    def subtract(self, left: np.ndarray, right: np.ndarray) -> None:
        """Subtract ``left @ right``."""
        if self._t + len(right) > len(self._right):
            room = 2 * THICKEST + 4 * len(right)
            self._left, old_left = np.empty((len(self.matrix), room)), self._left
            self._right, old_right = np.empty((room, len(self.matrix))), self._right
            self._left[:, : self._t], self._right[: self._t] = old_left[:, : self._t], old_right[: self._t]
        self._left[:, self._t : self._t + len(right)] = left
        self._right[self._t : self._t + len(right)] = right
        self._t += len(right)

    def at(self, kept: np.ndarray) -> _Lazy:
        """The difference carried out, on some rows and columns."""
        product = self._left[kept, : self._t] @ self._right[: self._t, kept]
        return _Lazy(self.matrix[np.ix_(kept, kept)] - product)


class _Downdated:
    """A problem while its units go: H⁻¹ and Wᵀ W of what is left, with the columns of unit ``k`` in slot ``k``."""

    def __init__(self, problem: Problem) -> None:
        units, self.p = problem.columns.shape
        owned = problem.columns.reshape(-1)
        rest = np.setdiff1d(np.arange(len(problem.second)), owned)
        order = np.r_[owned, rest]
        self.rest = len(rest)
        self.worth = problem.worth
        weights = problem.weights[:, order]
        self.inverse = _Lazy(np.linalg.inv(problem.second[np.ix_(order, order)]))
        self.power = _Lazy(weights.T @ weights)
        self._restart(units)

    def _restart(self, units: int) -> None:
        """Take the blocks that units own on the diagonals, [units, p, p]."""
        self.units, self.thick = units, 0
        at = np.arange(units * self.p).reshape(units, self.p)
        self.inverses = self.inverse.matrix[at[:, :, None], at[:, None, :]]
        self.powers = self.power.matrix[at[:, :, None], at[:, None, :]]

    def costs(self) -> np.ndarray:
        """tr(([H⁻¹]_PP)⁻¹ W_Pᵀ W_P) of every unit; what it is for units that are gone means nothing."""
        if self.p == 1:
            return self.worth * (self.powers / self.inverses).reshape(-1)
        return self.worth * np.trace(np.linalg.solve(self.inverses, self.powers), axis1=1, axis2=2)

    def remove(self, k: int) -> None:
        """The downdates: of rank p for H⁻¹, and what W's own, W - W_P s, makes of Wᵀ W."""
        at = slice(k * self.p, (k + 1) * self.p)
        rows, powers = self.inverse.rows(at), self.power.rows(at)  # [p, n]
        shares = np.linalg.solve(rows[:, at], rows)
        crossed = powers - powers[:, at] @ shares / 2
        self.inverse.subtract(rows.T, shares)
        self.power.subtract(np.hstack([shares.T, crossed.T]), np.vstack([crossed, shares]))
        ends = self.units * self.p
        r, s, c = (m[:, :ends].reshape(self.p, self.units, self.p) for m in (rows, shares, crossed))
        self.inverses -= np.einsum("qui,quj->uij", r, s)
        mixed = np.einsum("qui,quj->uij", s, c)
        self.powers -= mixed + mixed.swapaxes(1, 2)
        self.inverses[k], self.powers[k] = np.eye(self.p), 0.0
        self.thick += self.p

    def compact(self, alive: np.ndarray) -> None:
        """Leave the units that are gone behind; ``alive`` is bool [units]."""
        kept = np.flatnonzero(np.append(np.repeat(alive, self.p), np.ones(self.rest, bool)))
        self.inverse, self.power = self.inverse.at(kept), self.power.at(kept)
        self._restart(int(alive.sum()))


def remove_all(problems: Sequence[Problem], most: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Remove unit after unit, each time the one that costs least given those already gone.

    Args:
        problems: every reader of the group; all have the same number of units.
        most: error beyond which it stops; what then is left goes in any order, at an infinite error.

    Returns:
        The units in the order they went, int64 [units], and what each added to the error, float64 [units].
    """
    state = [_Downdated(problem) for problem in problems]
    units = np.arange(len(problems[0].columns))
    alive = np.ones(len(units), bool)
    order, added = np.empty(len(units), np.int64), np.empty(len(units))
    for step in track(range(len(order))):
        costs = np.where(alive, np.sum([s.costs() for s in state], axis=0), np.inf)
        k = int(np.argmin(costs))
        order[step], added[step] = units[k], max(costs[k], 0.0)
        if added[: step + 1].sum() > most:
            order[step:], added[step:] = units[alive], np.inf
            break
        alive[k] = False
        for s in state:
            s.remove(k)
        if max(s.thick for s in state) >= THICKEST:
            for s in state:
                s.compact(alive)
            units, alive = units[alive], np.ones(int(alive.sum()), bool)
    return order, added
