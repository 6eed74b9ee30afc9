"""Score each unit by how far the outputs move when it falls silent, over all layers on one scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from graphprune.calibration import items
from graphprune.calibration.activations import Inputs, batched, run
from graphprune.calibration.gradient import with_gradients
from graphprune.calibration.importance import directions
from graphprune.calibration.refit import calibrated
from graphprune.errors import InvalidModelError, UsageError
from graphprune.state import State


@dataclass(frozen=True)
class Fisher:
    """Mean square of what a unit sends on times the gradient there (Molchanov et al. 2019; Kwon et al. 2022).

    To first order that is how far the outputs move; of a model that predicts the next token, on text of its own, it is
    the Fisher information of a mask on the unit. Units of all layers compete on one scale, unlike those of ``obs``,
    whose errors are shares of each layer's own output. Sorted, the scores of a group are its error curve. Groups that
    no gradient reaches get no score and are left alone, which is noted.

    Attributes:
        positions: tokens, or images, that it is measured on, at least.
        seed: of the directions of the outputs.
    """

    positions: int = 4096
    seed: int = 0

    def __call__(self, state: State) -> State:
        """Set ``scores``; raises ``UsageError`` where there are no gradients, or none that onnxruntime can compute."""
        calibration = calibrated(state, "fisher")
        model = batched(state.model)
        reads = {}
        for group in state.groups:
            sources = {m.layer.x for dim in group.weights if (m := calibration.reader(dim)) is not None}
            reads[group.name] = [dim for dim in group.labels if dim.tensor in sources]
        wanted = sorted({dim.tensor for dims in reads.values() for dim in dims})
        graph, gradients = with_gradients(model, directions(model, self.seed, calibration.logits), wanted)
        if not gradients:
            raise UsageError(f"no gradient of {state.model.name} reaches a layer that reads a group", "use obs")
        moved = {g.name: np.zeros(g.size) for g in state.groups if any(d.tensor in gradients for d in reads[g.name])}
        try:
            for inputs in calibration.shown():
                for values in run(graph, [*gradients, *gradients.values()], self._some(inputs), keep=False):
                    for group in state.groups:
                        for dim in reads[group.name]:
                            if dim.tensor in gradients:
                                change = values[dim.tensor].astype(np.float64) * values[gradients[dim.tensor]]
                                moved[group.name] += _squares(change, dim.axis, group.positions(dim))
        except InvalidModelError as error:
            raise UsageError(f"{state.model.name} has gradients that onnxruntime cannot compute", "use obs") from error
        curves = {}
        for name, scores in moved.items():
            if np.isfinite(scores).all():
                order = np.argsort(scores, kind="stable")
                curves[name] = np.empty(len(scores))
                curves[name][order] = np.cumsum(scores[order])
        left = [f"group {g.name} is left alone: no gradient reaches it" for g in state.groups if g.name not in curves]
        return replace(state, scores=curves, data={**state.data, "notes": (*state.data.get("notes", ()), *left)})

    def _some(self, inputs: Inputs) -> Inputs:
        """As many of the first items as hold ``positions`` tokens, or are so many images."""
        sequences = [x for x in inputs.values() if x.ndim == 2 and x.dtype.kind in "iu"]
        count = ceil(self.positions / max((x.shape[1] for x in sequences), default=1))
        return {name: x[:count] if len(x.shape) and len(x) == items(inputs) else x for name, x in inputs.items()}


def _squares(change: np.ndarray, axis: int, own: np.ndarray) -> np.ndarray:
    """Changes added up over what a unit owns on an axis, int64 [units, per unit], squared, added up over all else."""
    moved = np.moveaxis(change, axis, -1).reshape(-1, change.shape[axis])
    return np.square(moved[:, own].sum(axis=2)).sum(axis=0)
