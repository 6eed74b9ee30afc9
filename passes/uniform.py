"""Choose the same share of units in every group."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphprune.budget import weakest, widths
from graphprune.errors import UsageError
from graphprune.state import State


@dataclass(frozen=True)
class Uniform:
    """Drop the least important ``ratio`` of each scored group.

    Attributes:
        ratio: share of units to remove, 0 to below 1; what is kept is rounded up to a legal width.
        multiple: every axis that is cut ends at a multiple of this.
        among: regular expression; the groups without a matching axis name keep what they have.
    """

    ratio: float = 0.5
    multiple: int = 1
    among: str = ""

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        if not 0 <= self.ratio < 1:
            raise UsageError(f"a ratio of {self.ratio} is not between 0 and 1", "0.3 removes 30 % of each group")
        if self.multiple < 1:
            raise UsageError(f"widths cannot be multiples of {self.multiple}", "1 allows any width")

    def __call__(self, state: State) -> State:
        """Add to ``drop``."""
        if not self.ratio:
            return state
        groups = [g for g in state.groups if g.name in state.scores and g.matches(self.among)]
        legal = widths(state.dependencies, groups, self.multiple)
        kept = {g.name: legal[g.name].at_least(round(g.size * (1 - self.ratio))) for g in groups}
        return replace(state, drop={**state.drop, **weakest(state.scores, kept)})
