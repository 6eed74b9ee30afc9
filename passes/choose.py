"""Choose units across all groups at once until the model is small enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.budget import weakest, widths
from graphprune.cost import CostModel
from graphprune.errors import TargetNotReachedError, UsageError
from graphprune.state import State


@dataclass(frozen=True)
class Choose:
    """Drop the least important units of the whole model, one ranking over all groups, until a target is met.

    Attributes:
        macs: share of multiply-accumulates to keep, above 0 to 1.
        params: share of parameters to keep, above 0 to 1.
        multiple: every axis that is cut ends at a multiple of this.
        floor: share of units every group keeps at least, so that no layer collapses.
    """

    macs: float = 1.0
    params: float = 1.0
    multiple: int = 1
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        for name, share in (("macs", self.macs), ("params", self.params)):
            if not 0 < share <= 1:
                raise UsageError(f"a {name} target of {share} is not above 0 and up to 1", "0.5 keeps half")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"a floor of {self.floor} is not between 0 and 1", "0.1 keeps a tenth of each group")
        if self.multiple < 1:
            raise UsageError(f"widths cannot be multiples of {self.multiple}", "1 allows any width")

    def __call__(self, state: State) -> State:
        """Set ``drop``; raises ``TargetNotReachedError`` when the floors and widths leave too much."""
        groups = [g for g in state.groups if g.name in state.scores]
        legal = widths(state.dependencies, groups, self.multiple, self.floor)
        cost = CostModel(state.model, state.dependencies.groups)
        before = cost.at()
        owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        scores = np.concatenate([np.zeros(0), *(state.scores[g.name] for g in groups)])
        ranked = owner[np.argsort(scores, kind="stable")]

        def kept(prefix: int) -> dict[str, int]:
            counts = np.bincount(ranked[:prefix], minlength=len(groups))
            return {g.name: legal[g.name].at_least(g.size - int(n)) for g, n in zip(groups, counts, strict=True)}

        def met(prefix: int) -> bool:
            after = cost.at({g.name: g.size - n for g, n in zip(groups, kept(prefix).values(), strict=True)})
            return after.macs <= self.macs * before.macs and after.parameters <= self.params * before.parameters

        if not met(len(ranked)):
            least = cost.at({g.name: g.size - n for g, n in zip(groups, kept(len(ranked)).values(), strict=True)})
            raise TargetNotReachedError(
                f"at most {1 - least.macs / max(before.macs, 1):.1%} of the MACs and "
                f"{1 - least.parameters / max(before.parameters, 1):.1%} of the parameters can be removed",
                "ask for less, or lower --round-to or the floor",
            )
        if self.macs == self.params == 1:
            return replace(state, drop={})
        # Groups that share an axis may have to be cut together, which can meet the target before any rank is reached.
        low, high = -1, len(ranked)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if met(middle) else (middle, high)
        return replace(state, drop=weakest(state.scores, kept(high)))
