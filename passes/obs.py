"""Score each unit by the error its group makes once it is gone, the other weights making up for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Calibration
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.obs import Problem, damped, remove_all
from graphprune.state import State


@dataclass(frozen=True)
class Obs:
    """Optimal Brain Surgeon over every layer that reads a group (Hassibi & Stork 1993, for coupled columns).

    Units are removed greedily, all weights refitted exactly after each. A unit's score is the error of its group, as a
    share of the signal, once it and all units before it are gone: sorted, the scores of a group are its error curve.
    Groups that no linear layer reads are scored by the share of squared weights lost instead.

    Attributes:
        damp: share of the mean input power added to every input.
    """

    damp: float = 0.01

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group."""
        calibration = state.data.get("calibration")
        if calibration is None:
            raise UsageError("obs needs calibrated layers", 'put calibrate before it: "calibrate, obs, ..."')
        return replace(state, scores={g.name: self._score(g, state, calibration) for g in state.groups})

    def _score(self, group: Group, state: State, calibration: Calibration) -> np.ndarray:
        problems = list(self._problems(group, calibration))
        if problems:
            order, added = remove_all(problems)
        else:
            power = sum((owned.astype(np.float64) ** 2).sum(axis=1) for owned in group.owned(state.model))
            order = np.argsort(power, kind="stable")
            added = np.asarray(power)[order] / (np.sum(power) or 1.0)
        scores = np.empty(group.size)
        total = -1.0
        for unit, error in zip(order, np.cumsum(added), strict=True):
            total = max(float(error), np.nextafter(total, np.inf)) if total >= 0 else float(error)
            scores[unit] = total
        return scores

    def _problems(self, group: Group, calibration: Calibration) -> Iterator[Problem]:
        for dim in group.weights:
            moments = calibration.moments.get(dim.tensor)
            if moments is None or dim.axis != moments.layer.summed:
                continue
            taps = moments.layer.taps
            labels = group.labels[dim]
            positions = np.argsort(labels, kind="stable")[int((labels < 0).sum()) :].reshape(group.size, -1)
            columns = (positions[:, :, None] * taps + np.arange(taps)).reshape(group.size, -1)
            n = moments.weights.shape[2] - (not moments.layer.shiftable)
            for weights, second in zip(moments.weights, moments.second, strict=True):
                alive = weights * (np.diagonal(second) > 0)  # an input that is always 0 costs nothing, however weighted
                yield Problem(alive[:, :n], damped(second, self.damp)[:n, :n], columns, 1 / (moments.energy or 1.0))
