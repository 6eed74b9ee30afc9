"""Refit layers that lost inputs by a sweep from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphprune.calibration.refit import refitted
from graphprune.obs import damped
from graphprune.state import State


@dataclass(frozen=True)
class ObspaUpdate:
    """The update of OBSPA (Wang, Xiao & Li 2024, "Structurally Prune Anything"): SparseGPT's sweep on whole columns.

    A lost column is made up for by the columns to its right alone. Here to compare with; ``reconstruct`` solves the
    same problem exactly.

    Attributes:
        damp: share of the mean input power added to every input.
    """

    damp: float = 0.01

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, or the same state where no layer lost an input."""
        return refitted(state, "obspa_update", self._solve)

    def _solve(self, weights: np.ndarray, second: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return _swept(weights, damped(second, self.damp), kept)


def _swept(weights: np.ndarray, second: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """W once every column not in ``kept`` has been given up in turn, float64 [outputs, kept]."""
    upper = np.linalg.cholesky(np.linalg.inv(second)).T
    weights = weights.copy()
    for j in np.setdiff1d(np.arange(len(second)), kept):
        weights[:, j + 1 :] -= np.outer(weights[:, j] / upper[j, j], upper[j, j + 1 :])
    return weights[:, kept]
