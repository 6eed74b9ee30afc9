"""Score each unit by the scale that BatchNorm gives its channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.rules import Dim
from graphprune.state import State


@dataclass(frozen=True)
class BatchnormScale:
    """Mean |scale| over the BatchNormalization channels of a unit (network slimming: Liu et al. 2017, section 3).

    Groups without a BatchNormalization get no score and are left alone. Scales are comparable across layers by design,
    so they are not normalised.
    """

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group that a BatchNormalization reads."""
        scales = {node.inputs[1].name for node in state.model.graph.nodes if node.op == "BatchNormalization"}
        scores = {}
        for group in state.groups:
            total, count = np.zeros(group.size), 0
            for dim in group.weights:
                if dim.tensor in scales:
                    total += group.summed(dim, np.abs(np.asarray(state.model.constants[dim.tensor].values, np.float64)))
                    count += group.per_unit(Dim(*dim))
            if count:
                scores[group.name] = total / count
        return replace(state, scores=scores)
