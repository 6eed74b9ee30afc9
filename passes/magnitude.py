"""Score each unit by the size of the weights it owns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.groups import Group
from graphprune.state import State


@dataclass(frozen=True)
class Magnitude:
    """Mean of |w| ** power over every parameter a unit owns, relative to its group's mean.

    Han et al. 2015 for single weights, Li et al. 2017 for filters; taken over all coupled parameters as in Fang et al.
    2023, section 3.4. The division makes groups comparable in a global choice.

    Attributes:
        power: 1 for L1, 2 for L2.
    """

    power: float = 2.0

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group."""

        def score(group: Group) -> np.ndarray:
            mean = group.power(state.model, self.power) / group.parameters(state.model)
            return mean / (mean.mean() or 1.0)

        return replace(state, scores={group.name: score(group) for group in state.groups})
