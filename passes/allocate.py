"""Share a budget out among the groups, so that the errors they make add up to the least."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphprune.allocation import Budget
from graphprune.budget import Target, weakest
from graphprune.state import State

ROUNDS = 6


@dataclass(frozen=True)
class Allocate(Target):
    """Widths of least total error within a budget, by Lagrange multipliers (Everett 1963).

    Needs scores that are error curves, as ``obs`` makes them: sorted, the k-th is the error of the group once k units
    are gone. For a price on the budget each group picks its width alone; the price is found by bisection. What a unit
    saves depends on the widths of its neighbours, so savings are taken anew around the widths found, a few times.
    """

    def __call__(self, state: State) -> State:
        """Add to ``drop`` and set ``data["tradeoff"]``; raises ``TargetNotReachedError`` when floors leave too much."""
        budget = Budget(state, self)
        if budget.use(budget.full) <= 1:
            return state
        least = {name: counts[0] for name, counts in budget.options.items()}
        if budget.use(least) > 1:
            raise self.unreachable(budget.cost(least), budget.before)
        best, around = least, least
        savings = budget.savings(budget.full)
        for _ in range(ROUNDS):
            around = budget.cheapest(savings)
            found = budget.filled(around)
            if budget.error(found) < budget.error(best):
                best = found
            nearby = budget.savings(around)
            savings = {name: (savings[name] + nearby[name]) / 2 for name in savings}
        data = {**state.data, "tradeoff": budget.tradeoff(best, savings)}
        return replace(state, drop={**state.drop, **weakest(state.scores, best)}, data=data)
