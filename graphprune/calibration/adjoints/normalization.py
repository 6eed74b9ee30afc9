"""Gradients of normalisations, with respect to what is normalised."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.adjoints.tape import Adjoint, Parts, Tape
from graphprune.rules import Call


def _batch_normalization(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    scale, _, _, variance = (o.values for o in call.inputs[1:] if o is not None and o.constant is not None)
    factor = scale / np.sqrt(variance + call.attrs.get("epsilon", 1e-5))
    yield 0, tape("Mul", dy, factor.reshape(-1, *[1] * (call.y.rank - 2)))


def _layer_normalization(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, _normalized(tape, node, call, dy, centred=True)


def _rms_normalization(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor) -> Parts:
    yield 0, _normalized(tape, node, call, dy, centred=False)


def _normalized(tape: Tape, node: gs.Node, call: Call, dy: gs.Tensor, centred: bool) -> gs.Tensor:
    """With g the gradient of what is scaled, u: (g - mean(g) - u mean(g u)) / size, mean(g) where u is centred."""
    x: gs.Tensor = node.inputs[0]
    axes = list(range(call.attrs.get("axis", -1) % call.x.rank, call.x.rank))
    if centred:
        x = tape("Sub", x, tape.reduced("ReduceMean", x, axes))
    square = tape.reduced("ReduceMean", tape("Mul", x, x), axes)
    size = tape("Sqrt", tape("Add", square, float(call.attrs.get("epsilon", 1e-5))))
    u, g = tape("Div", x, size), tape("Mul", dy, node.inputs[1])
    along = tape("Sub", g, tape("Mul", u, tape.reduced("ReduceMean", tape("Mul", g, u), axes)))
    if centred:
        along = tape("Sub", along, tape.reduced("ReduceMean", g, axes))
    return tape("Div", along, size)


ADJOINTS: Mapping[str, Adjoint] = {
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
}
