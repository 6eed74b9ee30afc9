"""Remove the chosen layers from the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphprune.branches import without
from graphprune.errors import UsageError
from graphprune.state import State


@dataclass(frozen=True)
class RemoveLayers:
    """Let every sum that a chosen residual branch ends in be its other operand; the runner proves the law of layers.

    Attributes:
        caches: what becomes of outputs made in the branches, such as keys and values: ``keep`` leaves the interface as
            it is, and they hold what was given for them followed by zeros; ``remove`` takes them out of the interface,
            with the inputs that only they needed.
    """

    caches: str = "keep"

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for a value that means nothing."""
        if self.caches not in ("keep", "remove"):
            raise UsageError(f"caches cannot be '{self.caches}'", "keep or remove them")

    def __call__(self, state: State) -> State:
        """A state with the shorter model, or the same state; scores and choices belong to the old one."""
        if not state.layers:
            return state
        model = without(state.model, state.layers, keep_caches=self.caches == "keep")
        return replace(state, model=model, scores={}, drop={}, layers=())
