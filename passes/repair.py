"""Give channels back the mean and spread they had before the cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import batched
from graphprune.calibration.statistics import observed, tolerance
from graphprune.errors import UsageError
from graphprune.progress import track
from graphprune.rules import Dim
from graphprune.state import State


@dataclass(frozen=True)
class Repair:
    """A BatchNormalization estimated anew behind every layer that had one, for ``fold_batchnorm`` to fold.

    Least squares predicts too little variance, and what layers lack adds up with depth (Jordan et al. 2023, "REPAIR").
    The moments wanted are those the same noise had in the dense model. Without BatchNorm statistics nothing is done,
    nor where ``refit_in_order`` has seen to it.

    Attributes:
        limit: a channel is scaled by at most this factor, up or down.
    """

    limit: float = 1.3

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state with normalisations added, or the same state."""
        calibration, going = state.data.get("calibration"), state.data.get("cut", {})
        if calibration is None:
            raise UsageError("repair needs calibrated layers", 'write "calibrate, ..., cut, reconstruct, repair"')
        produced = {t.name for node in state.model.graph.nodes for t in node.outputs}
        statistics = {}
        for name, moments in calibration.statistics.items():
            if name in produced:
                kept = ~going.get(Dim(name, 1), np.zeros(len(moments["mean"]), bool))
                statistics[name] = {part: values[kept] for part, values in moments.items()}
        targets = [name for name in statistics if name in state.data.get("batchnorm", {})]
        if not targets or "refitted_in_order" in state.data or not (going or "sparsity" in state.data):
            return state
        opened = batched(state.model)
        factors: dict[str, list[np.ndarray]] = {name: [] for name in targets}
        means: dict[str, list[np.ndarray]] = {name: [] for name in targets}
        for noise in track(calibration.noise.values()):
            found = observed(opened, statistics, noise.make())
            for name in targets:
                kept = ~going.get(Dim(name, 1), np.zeros(len(noise.found[name]["mean"]), bool))
                least = tolerance(statistics[name]["std"])
                factor = (noise.found[name]["std"][kept] + least) / (found[name]["std"] + least)
                factors[name].append(np.log(np.clip(factor, 1 / self.limit, self.limit)))
                means[name].append(np.stack([noise.found[name]["mean"][kept], found[name]["mean"]]))
        model = state.model.copy()
        nodes: list[gs.Node] = []
        for node in model.graph.nodes:
            nodes.append(node)
            for k, tensor in enumerate(list(node.outputs)):
                if tensor.name in factors:
                    wanted, had = np.mean(means[tensor.name], axis=0)
                    nodes.append(_normalisation(node, k, np.exp(np.mean(factors[tensor.name], axis=0)), wanted, had))
        model.graph.nodes[:] = nodes
        return replace(state, model=replace(model))


def _normalisation(node: gs.Node, index: int, scale: np.ndarray, wanted: np.ndarray, had: np.ndarray) -> gs.Node:
    """``scale * (output - had) + wanted``, each float64 [channels]."""
    tensor = node.outputs[index]
    dtype = next(t.dtype for t in node.inputs if isinstance(t, gs.Constant) and np.dtype(t.dtype).kind == "f")
    raw = gs.Variable(f"{tensor.name}:raw", dtype)
    node.outputs[index] = raw
    parts = {"scale": scale, "shift": wanted, "mean": had, "variance": np.ones(len(scale))}
    constants = [gs.Constant(f"{tensor.name}:{part}", values.astype(dtype)) for part, values in parts.items()]
    return gs.Node("BatchNormalization", attrs={"epsilon": 0.0}, inputs=[raw, *constants], outputs=[tensor])
