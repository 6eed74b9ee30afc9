"""Optimal Brain Surgeon for whole groups of coupled columns: which unit costs least, and the best weights without it.

Hassibi & Stork 1993 for one weight, Frantar & Alistarh 2022, "Optimal Brain Compression", section 4, for the downdates
of an inverse; here a unit owns a block of columns in every layer that reads it, and goes from all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    result[np.arange(columns), np.arange(columns)] += damp * mean or 1.0
    result[-1, -1] += 1e-9
    return result


def fit(weights: np.ndarray, second: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The least-squares weights on the ``kept`` columns: W H[:, S] (H[S, S])⁻¹, float64 [outputs, kept]."""
    return np.linalg.solve(second[np.ix_(kept, kept)], second[kept] @ weights.T).T


def error(weights: np.ndarray, second: np.ndarray, fitted: np.ndarray, kept: np.ndarray) -> float:
    """Mean squared error, summed over outputs, of ``fitted`` weights on the ``kept`` columns."""
    difference = weights.copy()
    difference[:, kept] -= fitted
    return float(np.einsum("oi,ij,oj->", difference, second, difference, optimize=True))


class _Downdated:
    """A problem while its units go: W and H⁻¹ of what is left, with the columns of unit ``k`` in slot ``k``.

    H⁻¹ is kept as a matrix less a product of two thin ones, which is carried out when it has grown ``THICKEST``: the
    same numbers as a downdate at a time, with a fraction of the memory traffic.
    """

    def __init__(self, problem: Problem) -> None:
        units, self.p = problem.columns.shape
        owned = problem.columns.reshape(-1)
        rest = np.setdiff1d(np.arange(len(problem.second)), owned)
        order = np.r_[owned, rest]
        self.rest = len(rest)
        self.worth = problem.worth
        self.inverse = np.linalg.inv(problem.second[np.ix_(order, order)])
        self.weights = problem.weights[:, order].T.copy()  # [n, outputs]
        self._restart(units)

    def _restart(self, units: int) -> None:
        self.units, self.thick = units, 0
        room = THICKEST + self.p
        self.left, self.right = np.empty((len(self.inverse), room)), np.empty((room, len(self.inverse)))
        at = np.arange(units * self.p).reshape(units, self.p)
        self.blocks = self.inverse[at[:, :, None], at[:, None, :]]  # the diagonal ones of every unit, [units, p, p]

    def costs(self) -> np.ndarray:
        """tr(W_P ([H⁻¹]_PP)⁻¹ W_Pᵀ) of every unit; what it is for units that are gone means nothing."""
        owned = self.weights[: self.units * self.p].reshape(self.units, self.p, -1)
        solved = owned / self.blocks if self.p == 1 else np.linalg.solve(self.blocks, owned)
        return self.worth * np.einsum("upo,upo->u", owned, solved)

    def remove(self, k: int) -> None:
        """The rank-p downdate."""
        at, t = slice(k * self.p, (k + 1) * self.p), self.thick
        rows = self.inverse[at] - self.left[at, :t] @ self.right[:t]  # of H⁻¹, [p, n]
        shares = np.linalg.solve(rows[:, at], rows)
        self.left[:, t : t + self.p], self.right[t : t + self.p] = rows.T, shares
        self.thick += self.p
        self.weights -= shares.T @ self.weights[at]
        ends = self.units * self.p
        mine, theirs = (m[:, :ends].reshape(self.p, self.units, self.p) for m in (rows, shares))
        self.blocks -= np.einsum("qui,quj->uij", mine, theirs)
        self.blocks[k] = np.eye(self.p)

    def compact(self, alive: np.ndarray) -> None:
        """Carry the product out and leave the units that are gone behind; ``alive`` is bool [units]."""
        kept = np.flatnonzero(np.append(np.repeat(alive, self.p), np.ones(self.rest, bool)))
        left, right = self.left[kept, : self.thick], self.right[: self.thick, kept]
        self.inverse = self.inverse[np.ix_(kept, kept)] - left @ right
        self.weights = self.weights[kept]
        self._restart(int(alive.sum()))


def remove_all(problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Remove unit after unit, each time the one that costs least given those already gone.

    Args:
        problems: every reader of the group; all have the same number of units.

    Returns:
        The units in the order they went, int64 [units], and what each added to the error, float64 [units].
    """
    state = [_Downdated(problem) for problem in problems]
    units = np.arange(len(problems[0].columns))
    alive = np.ones(len(units), bool)
    order, added = np.empty(len(units), np.int64), np.empty(len(units))
    for step in range(len(order)):
        costs = np.where(alive, np.sum([s.costs() for s in state], axis=0), np.inf)
        k = int(np.argmin(costs))
        order[step], added[step] = units[k], max(costs[k], 0.0)
        alive[k] = False
        for s in state:
            s.remove(k)
        if max(s.thick for s in state) >= THICKEST:
            for s in state:
                s.compact(alive)
            units, alive = units[alive], np.ones(int(alive.sum()), bool)
    return order, added
