"""Fold BatchNormalization into the convolution or matrix product before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.statistics import remembered
from graphprune.state import State

# The weight axis that makes the output channels; a grouped ConvTranspose mixes groups into its axis 0.
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1}


@dataclass(frozen=True)
class FoldBatchnorm:
    """Scale the weights and move the rest into the bias (Jacob et al. 2018, section 3.2).

    What the normalisation knew of the training data is left in ``data["batchnorm"]``: for each normalised tensor the
    mean and standard deviation of its channels over that data, float64 [channels].
    """

    def __call__(self, state: State) -> State:
        """A state without the BatchNormalizations that follow a linear operator alone, or the same state."""
        model = state.model.copy()
        statistics: dict[str, dict[str, np.ndarray]] = dict(state.data.get("batchnorm", {}))
        gone = set()
        outputs = {t.name for t in model.graph.outputs}
        for norm in model.graph.nodes:
            producer = _producer(norm, outputs)
            if producer is None:
                continue
            scale, shift, mean, variance = (np.asarray(t.values, np.float64) for t in norm.inputs[1:5])
            factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
            _absorb(producer, factor, shift - mean * factor)
            statistics[norm.outputs[0].name] = remembered(norm)
            output = norm.outputs[0]
            norm.outputs.clear()
            norm.inputs.clear()
            producer.outputs = [output]
            gone.add(id(norm))
        if not gone:
            return state
        folded = model.with_nodes(n for n in model.graph.nodes if id(n) not in gone)
        return replace(state, model=folded, data={**state.data, "batchnorm": statistics})


def _producer(norm: gs.Node, outputs: set[str]) -> gs.Node | None:
    """The linear node whose only reader is this normalisation in inference mode, if its weights are its own."""
    if norm.op != "BatchNormalization" or norm.attrs.get("training_mode", 0):
        return None
    if sum(bool(t.name) for t in norm.outputs) > 1 or not all(isinstance(t, gs.Constant) for t in norm.inputs[1:5]):
        return None
    x = norm.inputs[0]
    if len(x.inputs) != 1 or len(x.outputs) != 1 or x.name in outputs:
        return None
    producer = x.inputs[0]
    grouped = producer.op == "ConvTranspose" and producer.attrs.get("group", 1) != 1
    plain = producer.attrs.get("alpha", 1.0) == 1.0 and producer.attrs.get("beta", 1.0) == 1.0
    if producer.op not in _OUTPUT_AXIS or grouped or not plain:
        return None
    if not all(isinstance(t, gs.Constant) for t in producer.inputs[1:] if t.name):
        return None
    axis = _output_axis(producer)
    channels = tuple(producer.inputs[1].shape[axis : axis + 1])
    return producer if all(tuple(t.shape) == channels for t in norm.inputs[1:5]) else None


def _output_axis(node: gs.Node) -> int:
    return 0 if node.op == "Gemm" and node.attrs.get("transB", 0) else _OUTPUT_AXIS[node.op]


def _absorb(node: gs.Node, factor: np.ndarray, shift: np.ndarray) -> None:
    """Replace ``y = W x + b`` by ``factor * y + shift``; new constants, for weights may be shared."""
    weight = node.inputs[1]
    axis = _output_axis(node)
    values = np.asarray(weight.values)
    along: list[Any] = [1] * values.ndim
    along[axis] = -1
    shared = len(weight.outputs) > 1
    name = f"{node.outputs[0].name}:weight" if shared else weight.name
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    old = 0.0 if bias is None else np.asarray(bias.values, np.float64)
    own = bias is not None and len(bias.outputs) == 1
    node.inputs = [
        node.inputs[0],
        gs.Constant(name, (values * factor.reshape(along)).astype(values.dtype)),
        gs.Constant(
            bias.name if bias is not None and own else f"{node.outputs[0].name}:bias",
            (old * factor + shift).astype(values.dtype),
        ),
    ]
