"""Meeting targets that only measuring can tell of: prune, measure, and ask for a little more or less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from graphprune.errors import TargetNotReachedError
from graphprune.model import Model

ROUNDS = 6  # of pruning and measuring
NEAR = 0.05  # how far below the target is close enough
ABOVE = 0.01  # how far above it counts as met

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Aim:
    """A target that is measured on the result.

    Attributes:
        name: the option of ``graphprune.budget.Target`` that it is asked for with.
        share: of the original, what is wanted at most.
        measure: what a result keeps of the original, as a share.
        text: a share in words, with its unit.
    """

    name: str
    share: float
    measure: Callable[[Model], float]
    text: Callable[[float], str]


def reach(
    aims: Sequence[Aim], make: Callable[[Mapping[str, float]], T], model: Callable[[T], Model]
) -> tuple[T, dict[str, float]]:
    """The result that meets all aims, the closest below them that was found, and what it keeps by the name of each.

    Args:
        aims: what is wanted.
        make: prunes to shares by name; may raise ``TargetNotReachedError``.
        model: of what ``make`` returns.

    Raises:
        TargetNotReachedError: no result met them; says how near the nearest came.
    """
    asked = {aim.name: aim.share for aim in aims}
    tried = {aim.name: [(0.0, 0.0), (1.0, 1.0)] for aim in aims}  # measured, and what was asked for
    best: tuple[float, T, dict[str, float]] | None = None
    nearest: dict[str, float] = {}
    for _ in range(ROUNDS):
        try:
            made = make(asked)
        except TargetNotReachedError as error:
            if best is not None:
                break
            nearest = nearest or dict(error.nearest)
            raise _missed(aims, nearest, str(error)) from error
        found = {aim.name: aim.measure(model(made)) for aim in aims}
        use = max(found[aim.name] / aim.share for aim in aims)
        if not nearest or use < max(nearest[aim.name] / aim.share for aim in aims):
            nearest = found
        if use <= 1 + ABOVE:
            best = max(best or (0.0, made, found), (use, made, found), key=lambda one: one[0])
            if use >= 1 - NEAR:
                break
        for aim in aims:
            tried[aim.name].append((found[aim.name], asked[aim.name]))
        # Between what was tried, a little below what is wanted, since measurements scatter.
        asked = {a.name: float(np.interp((1 - ABOVE) * a.share, *np.array(sorted(tried[a.name])).T)) for a in aims}
    if best is None:
        raise _missed(aims, nearest, f"not met in {ROUNDS} rounds of pruning and measuring")
    return best[1:]


def _missed(aims: Sequence[Aim], nearest: Mapping[str, float], why: str) -> TargetNotReachedError:
    told = ", ".join(f"{a.text(nearest[a.name])} in place of {a.text(a.share)}" for a in aims if a.name in nearest)
    near = f"; the nearest is {told}" if told else ""
    return TargetNotReachedError(f"{why}{near}", "ask for less, or lower --round-to or the floor", nearest)
