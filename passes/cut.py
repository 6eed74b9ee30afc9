"""Remove the chosen units from the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphprune.cut import cut, gone
from graphprune.errors import NothingToPruneError
from graphprune.state import State


@dataclass(frozen=True)
class Cut:
    """Slice every tensor that a dropped unit touches; the runner proves the law on the result.

    What went is left in ``data["cut"]``: for every axis, bool [old axis size]; the model before in ``data["uncut"]``.

    Attributes:
        needed: whether a model in which nothing can be pruned is an error.
    """

    needed: bool = True

    def __call__(self, state: State) -> State:
        """A state with the smaller model; its scores and choice belong to the old one and are dropped."""
        if not state.groups and not state.drop and self.needed:
            raise NothingToPruneError(
                f"{state.model.name} has nothing to prune: every axis is pinned",
                "`graphprune inspect` says by which node and why; --include and --exclude also narrow the choice",
            )
        going = gone(state.prunable, state.drop)
        if not going:
            return replace(state, scores={}, drop={})
        data = {**state.data, "cut": going, "uncut": state.model}
        return replace(state, model=cut(state.model, going), scores={}, drop={}, data=data)
