"""New weights of a layer, written into its model."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import bias_of
from graphprune.model import Model
from graphprune.rules import Layer


def write(model: Model, node: gs.Node, layer: Layer, matrix: np.ndarray) -> None:
    """Give a layer W and, where it can have one, the bias in the last column: float64 [parts, outputs, n + 1].

    The bias goes into the node's own input, into the addition behind it, or into a new one.
    """
    weight = node.inputs[1]
    node.inputs[1] = gs.Constant(weight.name, layer.tensor(matrix[:, :, :-1], weight.shape).astype(weight.dtype))
    if layer.shiftable:
        _shift(model, node, layer, matrix[:, :, -1].reshape(-1).astype(weight.dtype))


def _shift(model: Model, node: gs.Node, layer: Layer, bias: np.ndarray) -> None:
    y = node.outputs[0]
    if layer.bias is not None:
        old = bias_of(node, layer)
        name = old.name if old is not None and len(old.outputs) == 1 else f"{y.name}:bias"
        node.inputs = [*node.inputs[: layer.bias], gs.Constant(name, bias)]
        return
    reader = y.outputs[0] if len(y.outputs) == 1 and y.name not in model.outputs else None
    term = next((t for t in reader.inputs if isinstance(t, gs.Constant)), None) if reader is not None else None
    if reader is not None and reader.op == "Add" and term is not None and len(term.outputs) == 1:
        moved = gs.Constant(term.name, (np.asarray(term.values) + bias).astype(bias.dtype))
        reader.inputs = [moved if t is term else t for t in reader.inputs]
        return
    raw = gs.Variable(f"{y.name}:raw", bias.dtype)
    node.outputs[0] = raw
    add = gs.Node("Add", f"{y.name}:shift", inputs=[raw, gs.Constant(f"{y.name}:bias", bias)], outputs=[y])
    model.graph.nodes.insert(model.graph.nodes.index(node) + 1, add)
