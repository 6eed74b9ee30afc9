"""Score units at random: the baseline every criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.state import State


@dataclass(frozen=True)
class RandomScore:
    """Uniform scores in [0, 1).

    Attributes:
        seed: same seed, same scores.
    """

    seed: int = 0

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group."""
        rng = np.random.default_rng(self.seed)
        return replace(state, scores={group.name: rng.random(group.size) for group in state.groups})
