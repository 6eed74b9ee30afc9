"""Score each unit by an ordered elimination of the inverse second moments."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.obs import damped
from graphprune.state import State


@dataclass(frozen=True)
class Obspa:
    """The score of OBSPA (Wang, Xiao & Li 2024, "Structurally Prune Anything"), relative to its group's mean.

    A column of a layer that reads the group counts its squared weights by the squared diagonal of the Cholesky factor
    of H⁻¹, as in SparseGPT (Frantar & Alistarh 2023); a unit sums its columns. ``obspa_update`` is the update that goes
    with it. Groups that no linear layer reads are scored by the size of their weights.

    Attributes:
        damp: share of the mean input power added to every input.
    """

    damp: float = 0.01

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group."""
        calibration = state.data.get("calibration")
        if calibration is None:
            raise UsageError("obspa needs calibrated layers", 'write "calibrate, obspa, ..."')
        errors = {}
        for name, moments in calibration.moments.items():
            factors = [np.linalg.cholesky(np.linalg.inv(damped(second, self.damp))) for second in moments.second]
            squares = [(weights**2).sum(0) for weights in moments.weights]
            lost = [square / np.diagonal(factor) ** 2 for square, factor in zip(squares, factors, strict=True)]
            errors[name] = moments.per_input(np.stack(lost))

        def score(group: Group) -> np.ndarray:
            total = np.zeros(group.size)
            for dim in group.weights:
                if calibration.reader(dim) is not None:
                    total += group.summed(dim, errors[dim.tensor])
            if not total.any():
                total = group.power(state.model, 2)
            return total / (total.mean() or 1.0)

        return replace(state, scores={group.name: score(group) for group in state.groups})
