"""What channels are to save of a latency before zeros save the rest, by the errors predicted of both."""

from __future__ import annotations

import numpy as np

from graphprune.allocation import Budget
from graphprune.budget import Target
from graphprune.errors import TargetNotReachedError
from graphprune.state import State
from graphprune.zeros import Curves

STEPS = 10  # of the logarithm of the latency: where the trade is looked at in between


def trade(state: State, kept: float, multiple: int) -> float:
    """The share of its latency that a model is left with by channels, for the least error once zeros have done theirs.

    Both errors are shares of the model's outputs, by the same importance. Zeros are judged by the layers as they are,
    though channels go first.

    Args:
        state: with error curves as scores; ``data`` has timed layers and curves of zeros.
        kept: share of the latency to reach with both.
        multiple: of what every axis that is cut ends at.
    """
    zeros: Curves = state.data["zeros"]
    whole = zeros.time(dict.fromkeys(zeros.layers, 0.0))

    def error(part: float) -> float:
        budget = Budget(state, Target(latency=kept**part, multiple=multiple))
        if not budget.full:
            return np.inf
        widths = budget.cheapest(budget.savings(budget.full))
        if budget.use(widths) > 1:
            return np.inf
        try:
            return budget.error(widths) + zeros.error(zeros.within(whole * kept ** (1 - part)))
        except TargetNotReachedError:
            return np.inf

    # Where neither is possible a half each is as good as any other, and says why when it is tried.
    parts = sorted(np.arange(1, STEPS) / STEPS, key=lambda part: abs(part - 0.5))
    return float(kept ** min(parts, key=error))
