"""Score each unit by how much its inputs fluctuate, what is constant being left to the bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Calibration
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.state import State


@dataclass(frozen=True)
class Flap:
    """Variance of each input times the squared norm of its weights (An et al. 2024, "FLAP", equations 4 and 5).

    Summed over a unit, then standardised within each group, so that one ranking over all groups decides. The bias
    compensation of the paper is ``reconstruct(damp=1e6)`` after the cut: so much damping fits nothing but the constant.
    Groups that no linear layer reads get no score and are left alone.
    """

    def __call__(self, state: State) -> State:
        """Set ``scores``."""
        calibration = state.data.get("calibration")
        if calibration is None:
            raise UsageError("flap needs calibrated layers", 'write "calibrate, flap, ..., cut, reconstruct(damp=1e6)"')
        found = {group.name: _score(group, calibration) for group in state.groups}
        return replace(state, scores={n: (s - s.mean()) / s.std() for n, s in found.items() if s.std()})


def _score(group: Group, calibration: Calibration) -> np.ndarray:
    total = np.zeros(group.size)
    for dim in group.weights:
        if (moments := calibration.reader(dim)) is not None:
            variance = np.diagonal(moments.second, axis1=1, axis2=2) - moments.second[:, -1] ** 2
            total += group.summed(dim, moments.per_input(variance * (moments.weights**2).sum(axis=1)))
    return total
