"""Let the filters that stay stand in for those about to go, from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import layers
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.rules import Dim
from graphprune.state import State


@dataclass(frozen=True, eq=False)
class _Filters:
    """The filters of a group and their BatchNormalization: W, float64 [units, n]; the others float64 [units]."""

    weights: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Lbyl:
    """What dropped filters did is delivered by all that are kept (Lee, Kim & Choi 2025, "LBYL", equation 9).

    Each dropped filter is written as a combination of the kept ones, which least squares finds in closed form without
    data; the combination goes into the layers that read the group. Stands between the choice and ``cut``. Covers
    groups that one convolution with a BatchNormalization makes and no depthwise one carries on; others stay as they
    are, which the report notes.

    Attributes:
        shift: weight of the error after the BatchNormalization, λ₁ of the paper.
        size: weight of the error of the activation, which keeps combinations small, λ₂.
    """

    shift: float = 1e-4
    size: float = 1e-2

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state whose model has new weights behind the units that are about to go."""
        model = state.model.copy()
        left = []
        for group in state.groups:
            going = np.asarray(state.drop.get(group.name, ()), np.int64)
            if not len(going):
                continue
            filters = _filters(model, group)
            if filters is None:
                left.append(group.name)
                continue
            kept = np.setdiff1d(np.arange(group.size), going)
            self._deliver(model, group, kept, going, self._combinations(filters, kept, going))
        notes = state.data.get("notes", ())
        if left:
            notes = (*notes, f"lbyl leaves {len(left)} groups as they are: no single convolution with BatchNorm")
        return replace(state, model=replace(model), data={**state.data, "notes": notes})

    def _combinations(self, f: _Filters, kept: np.ndarray, going: np.ndarray) -> np.ndarray:
        """How much of each dropped unit every kept one delivers after its BatchNormalization, [going, kept]."""
        basis = f.weights[kept]
        scale = np.where(f.scale == 0, 1e-12, f.scale)
        means = (f.mean - f.spread * f.shift / scale)[kept]
        found = np.empty((len(going), len(kept)))
        gram = basis @ basis.T
        for row, i in enumerate(going):
            gain = scale[i] / f.spread[i]
            ratios = scale[i] / scale[kept] * f.spread[kept] / f.spread[i]
            matrix = gram + self.shift * gain**2 * np.outer(means, means) + self.size * np.diag(ratios**2)
            moved = self.shift * gain * (gain * f.mean[i] - f.shift[i])
            found[row] = ratios * np.linalg.solve(matrix, basis @ f.weights[i] + moved * means)
        return found

    def _deliver(self, model: Model, group: Group, kept: np.ndarray, going: np.ndarray, shares: np.ndarray) -> None:
        for name, (node, layer) in layers(model)[0].items():
            dim = Dim(name, layer.summed)
            if dim not in group.labels:
                continue
            at = group.positions(dim)
            values = np.moveaxis(np.array(node.inputs[1].values, np.float64), layer.summed, 0)
            values[at[kept]] += np.tensordot(shares.T, values[at[going]], 1)
            moved = np.moveaxis(values, 0, layer.summed).astype(node.inputs[1].dtype)
            node.inputs[1] = gs.Constant(name, np.ascontiguousarray(moved))


def _filters(model: Model, group: Group) -> _Filters | None:
    """The one convolution that makes a group and the BatchNormalization behind it, if that is how it is made."""
    touched = {dim.tensor for dim in group.weights}
    norms = [n for n in model.graph.nodes if n.op == "BatchNormalization" and n.inputs[1].name in touched]
    found = layers(model)[0]
    makers = [name for name, (_, layer) in found.items() if Dim(name, 1 - layer.summed) in group.labels]
    if len(norms) != 1 or len(makers) != 1 or found[makers[0]][1].parts > 1:
        return None
    (norm,), (maker,) = norms, makers
    weight, layer = np.asarray(model.constants[maker].values, np.float64), found[maker][1]
    made = Dim(maker, 1 - layer.summed)
    if group.per_unit(made) != 1:
        return None
    rows = np.moveaxis(weight, made.axis, 0)[group.positions(made)[:, 0]]
    order = group.positions(Dim(norm.inputs[1].name, 0))[:, 0]
    scale, shift, mean, variance = (np.asarray(t.values, np.float64)[order] for t in norm.inputs[1:])
    return _Filters(
        rows.reshape(group.size, -1), scale, shift, mean, np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    )
