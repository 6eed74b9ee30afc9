"""Refit every layer that lost inputs, so that it makes what it made before the cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphprune.calibration import layers
from graphprune.calibration.refit import write
from graphprune.errors import UsageError
from graphprune.obs import fit
from graphprune.progress import track
from graphprune.rules import Dim
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
        calibration, going = state.data.get("calibration"), state.data.get("cut", {})
        if calibration is None:
            raise UsageError("reconstruct needs calibrated layers", 'write "calibrate, ..., cut, reconstruct"')
        model = state.model.copy()
        changed = False
        for name, (node, layer) in track(layers(model)[0].items()):
            gone, moments = going.get(Dim(name, layer.summed)), calibration.moments.get(name)
            if gone is None or moments is None:
                continue
            fitted = []
            for weights, second, columns in moments.left(gone, going.get(Dim(name, 1 - layer.summed))):
                matrix = fit(weights, second, columns, self.damp)
                fitted.append(matrix if layer.shiftable else np.pad(matrix, [(0, 0), (0, 1)]))
            write(model, node, layer, np.stack(fitted))
            changed = True
        return replace(state, model=replace(model)) if changed else state
