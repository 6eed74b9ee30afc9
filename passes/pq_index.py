"""Choose more units of groups whose importance lies in few of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.budget import Target, weakest, widths
from graphprune.cost import CostModel
from graphprune.errors import UsageError
from graphprune.state import State


@dataclass(frozen=True)
class PqIndex(Target):
    """Ratios by group that follow the PQ index of its scores (Diao et al. 2023, theorem 2), scaled to meet a target.

    The index is 1 − d^(1/q − 1/p) ‖w‖_p / ‖w‖_q for d scores w: 0 where all are alike, near 1 where few hold all.
    Of d units, d (1 + η)^(−q / (q − p)) (1 − index)^(pq / (q − p)) are kept; the target decides η. Scores are sizes, as
    ``magnitude`` makes them.

    Attributes:
        p: of the smaller norm, above 0 to 1.
        q: of the larger one, above p.
    """

    p: float = 0.5
    q: float = 1.0

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        super().__post_init__()
        if not 0 < self.p <= 1 or not self.q > self.p:
            raise UsageError(f"norms of {self.p} and {self.q} make no PQ index", "pq_index(p=0.5, q=1.0)")

    def __call__(self, state: State) -> State:
        """Add to ``drop``; raises ``TargetNotReachedError`` when the floors and widths leave too much."""
        groups = [g for g in state.groups if g.name in state.scores]
        legal = widths(state.dependencies, groups, self.multiple, self.floor)
        cost = CostModel(state.model, state.dependencies.groups, self.times(state.data))
        before = cost.at()
        if not self.asked:
            return state
        shares = {g.name: self.spread(state.scores[g.name]) for g in groups}

        def kept(scale: float) -> dict[str, int]:
            return {g.name: legal[g.name].at_least(round(g.size * min(1, scale * shares[g.name]))) for g in groups}

        def use(scale: float) -> float:
            return self.use(cost.at({g.name: g.size - kept(scale)[g.name] for g in groups}), before)

        if use(0.0) > 1:
            raise self.unreachable(cost.at({g.name: g.size - kept(0.0)[g.name] for g in groups}), before)
        low, high = 0.0, 1 / max(min(shares.values(), default=1.0), 1e-6)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if use(middle) <= 1 else (low, middle)
        return replace(state, drop={**state.drop, **weakest(state.scores, kept(low))})

    def spread(self, scores: np.ndarray) -> float:
        """(1 − index)^(pq / (q − p)): the share of units a group keeps, up to the scale that all have in common."""
        size = np.abs(scores) / (np.abs(scores).max() or 1.0)
        norms = [(size**k).sum() ** (1 / k) for k in (self.p, self.q)]
        evenness = len(size) ** (1 / self.q - 1 / self.p) * norms[0] / norms[1] if norms[1] else 1.0
        return float(evenness ** (self.p * self.q / (self.q - self.p)))
