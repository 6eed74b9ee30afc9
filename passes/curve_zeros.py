"""Find what zeros cost and save in every layer, for passes that choose levels by latency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphprune.calibration import layers
from graphprune.coupling import node_name
from graphprune.layertimes import onnxruntime_profile
from graphprune.progress import track
from graphprune.state import State
from graphprune.zeros import Curve, Curves, dense, remove


@dataclass(frozen=True)
class CurveZeros:
    """The error and the time of every layer at some levels of zeros, left in ``data["zeros"]``.

    At each level all layers have the same share of zeros, chosen and made up for as ``sparsify`` does; the model is
    then built and its layers timed by ``data["profile"]``. With onnxruntime, which skips no zeros, that finds nothing.

    Attributes:
        levels: shares of zeros, ascending.
        block: output channels that share their zeros.
        floor: share of its inputs that every block keeps.
        damp: share of the mean input power added to every input.
    """

    levels: tuple[float, ...] = (0.4, 0.6, 0.75, 0.88)
    block: int = 4
    floor: float = 0.05
    damp: float = 0.01

    prepares: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """The same model, with ``data["zeros"]``."""
        profile = state.data.get("profile", onnxruntime_profile)
        zeros = dense(state, self.block, self.damp)
        nodes = {name: node_name(node) for name, (node, _) in layers(state.model)[0].items()}
        total, times = profile(state.model)
        shown = {name: [(0.0, 0.0, times.get(nodes[name], 0.0))] for name in zeros.parts}
        kept = {name: [[block.support for block in zeros.of(name)]] for name in zeros.parts}
        rest = total - sum(points[0][2] for points in shown.values())
        for level in track(self.levels):
            for name in zeros.parts:
                remove(zeros.of(name), level, self.floor)
            model, errors = zeros.written(state.model)
            _, times = profile(model)
            for name, points in shown.items():
                blocks = zeros.of(name)
                share = 1 - sum(len(b.support) for b in blocks) / sum(len(b.columns) for b in blocks)
                points.append((share, errors[name], times.get(nodes[name], points[-1][2])))
                kept[name].append([block.support for block in blocks])
        found = {name: _curve(points, kept[name]) for name, points in shown.items()}
        return replace(state, data={**state.data, "zeros": Curves(found, max(rest, 0.0))})


def _curve(points: list[tuple[float, float, float]], kept: list[list[np.ndarray]]) -> Curve:
    levels, errors, times = np.array(points).T
    return Curve(levels, errors, np.minimum.accumulate(times), kept)
