"""Choose what costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphprune.allocation import Budget
from graphprune.budget import Target, weakest
from graphprune.state import State

PRICES = 1e-12, 1e6  # of a whole model: at the lowest, nothing goes that has an error


@dataclass(frozen=True)
class Spare(Target):
    """The units whose predicted errors add up to at most ``error``, those that save most for their error first.

    Dead and duplicate units have no error at all. Needs scores that are error curves, as ``obs`` makes them. Targets
    are not looked at, except as what saving means.

    Attributes:
        error: sum over the groups of the share of their readers' signal that is lost.
    """

    error: float = 1e-3

    def __call__(self, state: State) -> State:
        """Set ``drop``."""
        budget = Budget(state, self)
        savings = budget.savings(budget.full)
        low, high = PRICES
        for _ in range(60):
            middle = (low * high) ** 0.5
            within = budget.error(budget.at_price(middle, savings)) <= self.error
            low, high = (middle, high) if within else (low, middle)
        kept = budget.at_price(low, savings)
        note = (
            f"{sum(budget.full.values()) - sum(kept.values())} units are nearly free: the predicted change of the "
            f"signal is {budget.error(kept):.1e}, at most {self.error:g} was allowed"
        )
        notes = (*state.data.get("notes", ()), note)
        return replace(state, drop=weakest(state.scores, kept), data={**state.data, "notes": notes})
