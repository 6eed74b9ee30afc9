"""Find what zeros cost and save in every layer, for passes that choose levels by latency."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import layers
from graphprune.coupling import node_name
from graphprune.layertimes import onnxruntime_profile
from graphprune.progress import track
from graphprune.state import State
from graphprune.zeros import Curve, Curves, cheapest, dense

FINE = 64  # levels at which errors are known; times are read off between the levels that were timed


@dataclass(frozen=True)
class CurveZeros:
    """The error and the time of every layer at levels of zeros, left in ``data["zeros"]``.

    Zeros are chosen and made up for as ``sparsify`` does. At each level that is timed all layers have the same share of
    them; the model is then built and its layers timed by ``data["profile"]``. With onnxruntime, which skips no zeros,
    that finds nothing.

    Attributes:
        levels: shares of zeros to time, ascending.
        block: output channels that share their zeros.
        floor: share of its inputs that every block keeps.
        damp: share of the mean input power added to every input.
    """

    levels: tuple[float, ...] = (0.4, 0.6, 0.75, 0.88)
    block: int = 2
    floor: float = 0.05
    damp: float = 0.01

    def __call__(self, state: State) -> State:
        """The same model, with ``data["zeros"]``."""
        profile = state.data.get("profile", onnxruntime_profile)
        zeros = dense(state, self.block, self.damp)
        losses = zeros.losses()
        nodes = {name: node_name(node) for name, (node, _) in layers(state.model)[0].items()}
        total, times = profile(state.model)
        timed = {name: [times.get(nodes[name], 0.0)] for name in zeros.parts}
        rest = total - sum(first for (first,) in timed.values())
        for level in track(self.levels):
            at = {name: cheapest(zeros.of(name), losses[name], level, self.floor)[0] for name in zeros.parts}
            _, times = profile(zeros.written(state.model, at))
            for name, found in timed.items():
                found.append(min(times.get(nodes[name], found[-1]), found[-1]))
        levels = np.linspace(0, self.levels[-1], FINE)
        curves = {}
        for name, found in timed.items():
            errors = [cheapest(zeros.of(name), losses[name], level, self.floor)[1] for level in levels]
            curves[name] = Curve(levels, np.array(errors), np.interp(levels, [0.0, *self.levels], found))
        return replace(state, data={**state.data, "zeros": Curves(zeros, losses, curves, max(rest, 0.0))})
