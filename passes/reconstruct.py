"""Refit every layer that lost inputs, so that it makes what it made before the cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from graphprune.calibration.refit import refitted
from graphprune.calibration.sequence import refitted_in_sequence
from graphprune.obs import fit
from graphprune.state import State


@dataclass(frozen=True)
class Reconstruct:
    """One joint least-squares solve per layer, in float64, the dense model's outputs as targets.

    The inputs that are left take over what the lost ones carried (He, Zhang & Sun 2017, section 3.1); the bias takes
    over their means. In sequence, layer after layer is then refitted to what those before it have become, so that it
    also makes up for their errors. That needs text or real inputs, and many: with few it fits what they happen to say.

    Attributes:
        damp: share of the mean input power added to every input.
        sequence: the same for the second fit, which it holds near the first; 0 does without it.
    """

    damp: float = 0.01
    sequence: float = 0.0

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, or the same state where no layer lost an input."""
        solve = partial(fit, damp=self.damp)
        if not self.sequence:
            return refitted(state, "reconstruct", solve)
        return refitted_in_sequence(state, "reconstruct", solve, self.sequence)
