"""Refit every layer that lost inputs, so that it makes what it made before the cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import Moments, bias_of, layers
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.obs import fit
from graphprune.progress import track
from graphprune.rules import Dim, Layer
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
            weight = node.inputs[1]
            matrix = self._fitted(moments, gone, going.get(Dim(name, 1 - layer.summed)))
            node.inputs[1] = gs.Constant(name, layer.tensor(matrix[:, :, :-1], weight.shape).astype(weight.dtype))
            if layer.shiftable:
                _shift(node, layer, matrix[:, :, -1].reshape(-1).astype(weight.dtype), model)
            changed = True
        return replace(state, model=replace(model)) if changed else state

    def _fitted(self, moments: Moments, gone: np.ndarray, made: np.ndarray | None) -> np.ndarray:
        """New W and b of the outputs that are left, float64 [parts, outputs left, inputs left + 1]."""
        parts, outputs, _ = moments.weights.shape
        columns = np.append(~np.repeat(gone, moments.layer.taps), moments.layer.shiftable)
        rows = np.ones(parts * outputs, bool) if made is None else ~np.repeat(made, parts * outputs // len(made))
        fitted = []
        for weights, second, left in zip(moments.weights, moments.second, rows.reshape(parts, outputs), strict=True):
            matrix = fit(weights[left], second, np.flatnonzero(columns), self.damp)
            fitted.append(matrix if moments.layer.shiftable else np.pad(matrix, [(0, 0), (0, 1)]))
        return np.stack(fitted)


def _shift(node: gs.Node, layer: Layer, bias: np.ndarray, model: Model) -> None:
    """Give a layer the bias [outputs]: in its own input, in the addition behind it, or in a new one."""
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
