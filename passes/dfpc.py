"""Score each unit by how much of an input's size can pass through it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import layers
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.rules import Dim, Layer
from graphprune.state import State


@dataclass(frozen=True)
class Dfpc:
    """Saliency of coupled channels (Narshana, Murti & Bhattacharyya 2023, "DFPC"), relative to its group's mean.

    The bound on what the outputs change factorises: the size of the filters that make a unit times the size of the
    weights that read it, both met by an image of ones, so that padding counts for nothing. The filters are averaged
    over their positions, the readers summed over theirs. Depthwise filters in between multiply. BatchNorm must be
    folded into the filters, as ``fold_batchnorm`` does.
    """

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group."""
        found = {name: layer for name, (_, layer) in layers(state.model)[0].items()}
        gains = {name: _gain(state, layer) for name, layer in found.items()}

        def score(group: Group) -> np.ndarray:
            made, read, passed = np.zeros(group.size), np.zeros(group.size), np.ones(group.size)
            for dim in group.weights:
                labels = group.labels[dim]
                if (layer := found.get(dim.tensor)) is not None:
                    rows, columns = gains[dim.tensor]
                    # The parts of a grouped convolution share their axis of inputs.
                    values = columns.reshape(-1, len(labels)).sum(axis=0) if dim.axis == layer.summed else rows
                elif _depthwise(state.model, dim):
                    filters = np.abs(np.asarray(state.model.constants[dim.tensor].values, np.float64))
                    values = filters.reshape(len(filters), -1).sum(axis=1)
                else:
                    continue
                total = group.summed(dim, values)
                if layer is None:
                    passed *= total
                elif dim.axis == layer.summed:
                    read += total
                else:
                    made += total
            saliency = np.where(made.any(), made, 1.0) * passed * np.where(read.any(), read, 1.0)
            return saliency / (saliency.mean() or 1.0)

        return replace(state, scores={group.name: score(group) for group in state.groups})


def _depthwise(model: Model, dim: Dim) -> bool:
    shape = model.constants[dim.tensor].shape
    return dim.axis == 0 and len(shape) > 2 and shape[1] == 1


def _gain(state: State, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """For ones as input: the mean of |W| ones by output, [outputs], and the sum of |W| by position summed over."""
    model = state.model
    weight = np.abs(np.asarray(model.constants[layer.weight].values, np.float64))
    shape = tuple(size or 1 for size in model.shapes[layer.x])
    count = layer.positions(shape)
    ones = layer.unfold(np.ones(shape, np.float32), np.arange(count)).sum(axis=1)  # [parts, n]
    matrix = layer.matrix(weight) * ones[:, None]
    columns = matrix.sum(axis=1).reshape(-1, layer.taps).sum(axis=1)
    return matrix.sum(axis=2).reshape(-1) / count, columns
