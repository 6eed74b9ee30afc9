"""New weights for layers that lost inputs, and how they are written into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import Calibration, Moments, bias_of, layers
from graphprune.cut import Gone
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.progress import track
from graphprune.rules import Dim, Layer
from graphprune.state import State

Solve = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""W [outputs, n], the second moments of its inputs [n, n] and the columns kept → new W [outputs, kept]; float64."""


def refitted(state: State, name: str, solve: Solve) -> State:
    """A state whose model has new weights in every layer that lost inputs, or the same state where none did.

    Args:
        state: calibrated, and cut since.
        name: of the pass that asks, for its error.
        solve: finds the weights of one part of a layer.

    Raises:
        UsageError: the layers were not calibrated.
    """
    calibrated(state, name)
    model, going = state.model.copy(), state.data.get("cut", {})
    found = list(lost(model, state))
    for node, layer, moments in track(found):
        write(model, node, layer, np.stack([solve(*problem) for problem in left(layer, moments, going)]))
    return replace(state, model=replace(model)) if found else state


def calibrated(state: State, name: str) -> Calibration:
    """What is known of the layers; raises ``UsageError`` for the pass of this name where nothing is."""
    found: Calibration | None = state.data.get("calibration")
    if found is None:
        raise UsageError(f"{name} needs calibrated layers", f'write "calibrate, ..., cut, {name}"')
    return found


def lost(model: Model, state: State) -> Iterator[tuple[gs.Node, Layer, Moments]]:
    """The calibrated layers of a cut model that lost inputs, in the order of the graph."""
    calibration, going = state.data["calibration"], state.data.get("cut", {})
    for weight, (node, layer) in layers(model)[0].items():
        if Dim(weight, layer.summed) in going and weight in calibration.moments:
            yield node, layer, calibration.moments[weight]


def left(layer: Layer, moments: Moments, going: Gone) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What a cut left of every part of a layer, see ``Moments.left``."""
    return moments.left(*(going.get(Dim(layer.weight, axis)) for axis in (layer.summed, 1 - layer.summed)))


def write(model: Model, node: gs.Node, layer: Layer, matrix: np.ndarray) -> None:
    """Give a layer W and, where it can have one, the bias in the last column: float64 [parts, outputs, n (+ 1)].

    The bias goes into the node's own input, into the addition behind it, or into a new one.
    """
    weight = node.inputs[1]
    columns = matrix.shape[2] - layer.shiftable
    node.inputs[1] = gs.Constant(weight.name, layer.tensor(matrix[:, :, :columns], weight.shape).astype(weight.dtype))
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
