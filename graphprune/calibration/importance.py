"""Which errors of a layer's output change the model's output, and which it forgets.

For an error e of a layer's output, how far the model's outputs move is eᵀ G e to first order, with G the mean of g gᵀ
over positions for g = Jᵀ z, J the outputs' derivatives and z random with the unit matrix as its covariance. This is
the other Kronecker factor beside the inputs' second moments (Martens & Grosse 2015, "K-FAC"; Wang et al. 2019,
"EigenDamage"), for the squared error of the outputs, so that no labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import Inputs, positions, run
from graphprune.calibration.gradient import Seed, Tape, with_gradients
from graphprune.errors import InvalidModelError
from graphprune.model import Model

DRAWS = 2  # directions of the outputs that are looked at for every input
WIDEST = 6144  # channels of the largest G


def importance(model: Model, tensors: Iterable[str], inputs: Inputs, seed: int) -> dict[str, np.ndarray]:
    """G of tensors, half of it: the other half is the unit matrix, because linearity ends where errors are large.

    Args:
        model: as ``batched`` makes it.
        tensors: names.
        inputs: several of each.
        seed: of the directions.

    Returns:
        float64 [channels, channels] of trace ``channels``, for the tensors that a gradient reaches.
    """
    tensors = [name for name in tensors if (_channels(model, name) or WIDEST + 1) <= WIDEST]
    if not tensors:
        return {}
    directions = {name: _direction(len(model.shapes.get(name) or ()), seed + k) for k, name in enumerate(model.outputs)}
    graph, gradients = with_gradients(model, directions, tensors)
    second: dict[str, np.ndarray] = {}
    try:
        repeated = {name: np.concatenate([x] * DRAWS) if x.ndim else x for name, x in inputs.items()}
        for values in run(graph, list(gradients.values()), repeated):
            for name, gradient in gradients.items():
                g = positions(values[gradient])
                second[name] = second.get(name, 0.0) + g.T @ g
    except InvalidModelError:  # onnxruntime has no kernel for one of the transposed operators
        return {}
    found = {}
    for name, matrix in second.items():
        mean = np.trace(matrix) / len(matrix)
        if np.isfinite(mean) and mean > 0:
            found[name] = (matrix / mean + np.eye(len(matrix))) / 2
    return found


def _channels(model: Model, name: str) -> int | None:
    shape = model.shapes.get(name) or ()
    return shape[1 if len(shape) >= 4 else -1] if shape else None


def _direction(rank: int, seed: int) -> Seed:
    def drawn(tape: Tape, output: gs.Variable) -> gs.Tensor:
        """Normal numbers, in units of the output's own spread."""
        axes = list(range(rank))
        centred = tape("Sub", output, tape.reduced("ReduceMean", output, axes))
        variance = tape.reduced("ReduceMean", tape("Mul", centred, centred), axes)
        noise = tape("RandomNormalLike", output, seed=float(seed))
        return tape("Div", noise, tape("Sqrt", tape("Add", variance, 1e-12)))

    return drawn
