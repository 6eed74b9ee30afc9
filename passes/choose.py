"""Choose units across all groups at once until the model is small enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from graphprune.budget import Target, weakest, widths
from graphprune.cost import Cost, CostModel
from graphprune.state import State


@dataclass(frozen=True)
class Choose(Target):
    """Drop the least important units of the whole model, one ranking over all groups, until a target is met."""

    def __call__(self, state: State) -> State:
        """Add to ``drop``; raises ``TargetNotReachedError`` when the floors and widths leave too much."""
        groups = self.competing(state.groups, state.scores)
        legal = widths(state.dependencies, groups, self.multiple, self.floor)
        cost = CostModel(state.model, state.dependencies.groups, self.times(state.data))
        owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        scores = np.concatenate([np.zeros(0), *(state.scores[g.name] for g in groups)])
        ranked = owner[np.argsort(scores, kind="stable")]
        chosen = {name: len(units) for name, units in state.drop.items()}

        def kept(prefix: int) -> dict[str, int]:
            counts = np.bincount(ranked[:prefix], minlength=len(groups))
            return {g.name: legal[g.name].at_least(g.size - int(n)) for g, n in zip(groups, counts, strict=True)}

        def at(left: Mapping[str, int], others: Mapping[str, int]) -> Cost:
            found = cost.at({**others, **{g.name: g.size - left[g.name] for g in groups}})
            return msgspec.structs.replace(found, channels=sum(left.values()))

        def after(prefix: int) -> Cost:
            return at(kept(prefix), chosen)

        before = at({g.name: g.size for g in groups}, {})
        if self.use(after(len(ranked)), before) > 1:
            raise self.unreachable(after(len(ranked)), before)
        if not self.asked:
            return state
        # Groups that share an axis may have to be cut together, which can meet the target before any rank is reached.
        low, high = -1, len(ranked)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.use(after(middle), before) <= 1 else (middle, high)
        return replace(state, drop={**state.drop, **weakest(state.scores, kept(high))})
