"""Score each unit by its weights times the size of what flows into them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Calibration
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.state import State


@dataclass(frozen=True)
class Wanda:
    """Sum of |w| · √(mean x²) over the weights of a unit's inputs (Sun et al. 2023, equation 1, for whole columns).

    Taken over every linear layer that reads a group, as a share of the group's mean, so that groups compete by how
    uneven they are. Nothing is refitted. Groups that no linear layer reads get no score and are left alone.
    """

    def __call__(self, state: State) -> State:
        """Set ``scores``."""
        calibration = state.data.get("calibration")
        if calibration is None:
            raise UsageError("wanda needs calibrated layers", 'write "calibrate, wanda, ..."')
        found = {group.name: _score(group, calibration) for group in state.groups}
        return replace(state, scores={name: score / score.mean() for name, score in found.items() if score.any()})


def _score(group: Group, calibration: Calibration) -> np.ndarray:
    total = np.zeros(group.size)
    for dim in group.weights:
        if (moments := calibration.reader(dim)) is not None:
            size = np.sqrt(np.diagonal(moments.second, axis1=1, axis2=2))
            total += group.summed(dim, moments.per_input((np.abs(moments.weights) * size[:, None]).sum(axis=1)))
    return total
