"""Refit every layer that lost inputs, so that it makes what it made before the cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from graphprune.calibration.refit import refitted
from graphprune.obs import fit
from graphprune.state import State


@dataclass(frozen=True)
class Reconstruct:
    """One joint least-squares solve per layer, in float64, the dense model's outputs as targets.

    The inputs that are left take over what the lost ones carried (He, Zhang & Sun 2017, section 3.1); the bias takes
    over their means.

    Attributes:
        damp: share of the mean input power added to every input.
    """

    damp: float = 0.01

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, or the same state where no layer lost an input."""
        return refitted(state, "reconstruct", partial(fit, damp=self.damp))
