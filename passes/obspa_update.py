"""Refit layers that lost inputs by a sweep from left to right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphprune.calibration import layers
from graphprune.calibration.refit import write
from graphprune.errors import UsageError
from graphprune.obs import damped
from graphprune.progress import track
from graphprune.rules import Dim
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
        calibration, going = state.data.get("calibration"), state.data.get("cut", {})
        if calibration is None:
            raise UsageError("obspa_update needs calibrated layers", 'write "calibrate, ..., cut, obspa_update"')
        model = state.model.copy()
        changed = False
        for name, (node, layer) in track(layers(model)[0].items()):
            gone, moments = going.get(Dim(name, layer.summed)), calibration.moments.get(name)
            if gone is None or moments is None:
                continue
            fitted = [
                _swept(weights, damped(second, self.damp), columns)
                for weights, second, columns in moments.left(gone, going.get(Dim(name, 1 - layer.summed)))
            ]
            if not layer.shiftable:
                fitted = [np.pad(matrix, [(0, 0), (0, 1)]) for matrix in fitted]
            write(model, node, layer, np.stack(fitted))
            changed = True
        return replace(state, model=replace(model)) if changed else state


def _swept(weights: np.ndarray, second: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """W once every column not in ``kept`` has been given up in turn, float64 [outputs, kept]."""
    upper = np.linalg.cholesky(np.linalg.inv(second)).T
    weights = weights.copy()
    for j in np.setdiff1d(np.arange(len(second)), kept):
        weights[:, j + 1 :] -= np.outer(weights[:, j] / upper[j, j], upper[j, j + 1 :])
    return weights[:, kept]
