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
from graphprune.calibration.adjoints import Tape
from graphprune.calibration.gradient import Seed, with_gradients
from graphprune.errors import InvalidModelError
from graphprune.model import Model
from graphprune.model.surgeon import is_standard

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
    graph, gradients = with_gradients(model, directions(model, seed), tensors)
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


def directions(model: Model, seed: int, logits: str | None = None) -> dict[str, Seed]:
    """Random directions of the outputs, to start gradients from.

    Args:
        model: any.
        seed: of the numbers.
        logits: the only output that counts, where it predicts the next token: the mean square of a gradient is then
            twice how far, to second order, the prediction diverges. By default all ``answers`` count, each in units of
            its own spread.
    """
    if logits is not None:
        return {logits: _surprise(len(model.shapes[logits]), seed)}
    ranks = {name: len(model.shapes.get(name) or ()) for name in answers(model)}
    return {name: _direction(rank, seed + k) for k, (name, rank) in enumerate(ranks.items())}


def answers(model: Model) -> list[str]:
    """The outputs of real numbers, as they are before a softmax: behind it, what a sure model makes hardly moves."""
    makers = {t.name: node for node in model.graph.nodes for t in node.outputs}
    floats = [name for name in model.outputs if getattr(model.dtypes.get(name), "kind", "f") == "f"]
    ends = {name for name in floats if name in makers and makers[name].op == "Softmax" and is_standard(makers[name])}
    return [makers[name].inputs[0].name if name in ends else name for name in floats]


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


def _surprise(rank: int, seed: int) -> Seed:
    def drawn(tape: Tape, output: gs.Variable) -> gs.Tensor:
        """Normal numbers n times √p, less what moves all logits together: √p n - p (√p · n)."""
        likely = tape("Softmax", output, axis=rank - 1)
        noise = tape("Mul", tape("Sqrt", likely), tape("RandomNormalLike", output, seed=float(seed)))
        return tape("Sub", noise, tape("Mul", likely, tape.reduced("ReduceSum", noise, [rank - 1])))

    return drawn
