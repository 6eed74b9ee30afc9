"""Time the layers at several widths, for passes that choose by latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphprune.budget import widths
from graphprune.cut import cut, gone
from graphprune.layertimes import layer_times, onnxruntime_profile
from graphprune.progress import track
from graphprune.state import State


@dataclass(frozen=True)
class TimeLayers:
    """Latency of every layer at a few widths that all groups share, left in ``data["latency"]``.

    What times a model is taken from ``data["profile"]``, by default onnxruntime on one thread.

    Attributes:
        shares: of the units of every group, besides all of them.
        multiple: every axis that is cut ends at a multiple of this.
    """

    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    multiple: int = 8

    def __call__(self, state: State) -> State:
        """The same model, with ``data["latency"]``."""
        legal = widths(state.dependencies, state.groups, self.multiple)
        total = sum(g.size for g in state.dependencies.groups)
        models = {1.0: state.model}
        for share in self.shares:
            dropped: Mapping[str, np.ndarray] = {
                g.name: np.arange(legal[g.name].at_least(round(share * g.size)), g.size) for g in state.groups
            }
            left = 1 - sum(map(len, dropped.values())) / max(total, 1)
            if left not in models:
                models[left] = cut(state.model, gone(state.groups, dropped))
        profile = state.data.get("profile", onnxruntime_profile)
        found = layer_times(track(list(models.items())), profile)
        return replace(state, data={**state.data, "latency": found})
