"""Share a budget out among the groups by dynamic programming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphprune.allocation import Budget
from graphprune.budget import Target, weakest
from graphprune.state import State


@dataclass(frozen=True)
class LayerAdaptive(Target):
    """Widths of least total error within a budget, exactly for costs that add up (Xu et al. 2023, section 3.3).

    The errors of groups add up, so that a table over groups and steps of the budget holds the best choice for each.
    Costs do not quite add up, since what a unit saves depends on its neighbours: they are taken anew around the widths
    found, a few times. Needs scores that are error curves, as ``obs`` makes them.

    Attributes:
        steps: of the budget; more are finer.
        rounds: how often costs are taken anew.
    """

    steps: int = 2000
    rounds: int = 4

    def __call__(self, state: State) -> State:
        """Add to ``drop``, set ``data["tradeoff"]``; raises ``TargetNotReachedError`` when floors leave too much."""
        budget = Budget(state, self)
        if budget.use(budget.full) <= 1:
            return state
        best = {name: counts[0] for name, counts in budget.options.items()}
        if budget.use(best) > 1:
            raise self.unreachable(budget.cost(best), budget.before)
        around, limit = budget.full, 1.0
        savings = budget.savings(budget.full)
        for _ in range(self.rounds):
            paid = sum(savings[name] * around[name] for name in around)
            found = self._table(budget, savings, limit * paid / budget.use(around))
            while budget.use(found) > 1:
                limit *= 0.98 / budget.use(found)
                found = self._table(budget, savings, limit * paid / budget.use(around))
            found = budget.filled(found)
            if budget.error(found) < budget.error(best):
                best = found
            around, limit = found, 1.0
            nearby = budget.savings(around)
            savings = {name: (savings[name] + nearby[name]) / 2 for name in savings}
        data = {**state.data, "tradeoff": budget.tradeoff(best, savings)}
        return replace(state, drop={**state.drop, **weakest(state.scores, best)}, data=data)

    def _table(self, budget: Budget, savings: Mapping[str, float], limit: float) -> dict[str, int]:
        """The widths of least error whose units, each at what it saves, cost at most ``limit``."""
        least = {name: max(savings[name], 0.0) * counts[0] for name, counts in budget.options.items()}
        room = limit - sum(least.values())
        if room <= 0:
            return {name: counts[0] for name, counts in budget.options.items()}
        step = room / self.steps
        errors = np.zeros(self.steps + 1)  # the least so far, by how much of the budget may be spent
        picked = []
        for name, counts in budget.options.items():
            trials = np.full((len(counts), self.steps + 1), np.inf)
            for k, count in enumerate(counts):
                price = int(np.ceil((max(savings[name], 0.0) * count - least[name]) / step - 1e-9))
                if price <= self.steps:
                    trials[k, price:] = errors[: self.steps + 1 - price] + budget.curve(name, count)
            picked.append((name, counts, np.argmin(trials, axis=0)))
            errors = trials.min(axis=0)
        left, found = self.steps, {}
        for name, counts, choice in reversed(picked):
            found[name] = count = counts[choice[left]]
            left -= int(np.ceil((max(savings[name], 0.0) * count - least[name]) / step - 1e-9))
        return found
