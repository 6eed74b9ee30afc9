"""Score each unit by the error its group makes once it is gone, the other weights making up for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.calibration import Calibration
from graphprune.errors import UsageError
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.obs import Problem, damped, remove_all
from graphprune.progress import track
from graphprune.state import State


@dataclass(frozen=True)
class Obs:
    """Optimal Brain Surgeon over every layer that reads a group (Hassibi & Stork 1993, for coupled columns).

    Units are removed greedily, all weights refitted exactly after each. A unit's score is the error of its group, as a
    share of the signal, once it and all units before it are gone: sorted, the scores of a group are its error curve.
    Groups that no linear layer reads are scored by the share of squared weights lost instead.

    Attributes:
        damp: share of the mean input power added to every input.
        most: error of a group beyond which its curve is not followed, and is infinite.
    """

    damp: float = 0.01
    most: float = np.inf

    def __call__(self, state: State) -> State:
        """Set ``scores`` for every group."""
        calibration = state.data.get("calibration")
        if calibration is None:
            raise UsageError("obs needs calibrated layers", 'put calibrate before it: "calibrate, obs, ..."')
        scores, notes = {}, list(state.data.get("notes", ()))
        for group in track(state.groups):
            problems = list(self._problems(group, calibration))
            scores[group.name] = _curve(group, problems, state.model, self.most)
            if not problems:
                why = [calibration.skipped[d.tensor] for d in group.weights if d.tensor in calibration.skipped]
                reason = why[0] if why else "no linear layer reads it"
                notes.append(f"group {group.name} is scored by the size of its weights: {reason}")
        return replace(state, scores=scores, data={**state.data, "notes": tuple(notes)})

    def _problems(self, group: Group, calibration: Calibration) -> Iterator[Problem]:
        for dim in group.weights:
            moments = calibration.reader(dim)
            if moments is None:
                continue
            taps = moments.layer.taps
            columns = (group.positions(dim)[:, :, None] * taps + np.arange(taps)).reshape(group.size, -1)
            n = moments.weights.shape[2] - (not moments.layer.shiftable)
            for part, second in enumerate(moments.second):
                # An input that is always 0 costs nothing, however weighted.
                alive = moments.errors(part) * (np.diagonal(second) > 0)
                yield Problem(alive[:, :n], damped(second, self.damp)[:n, :n], columns, 1 / (moments.energy or 1.0))


def _curve(group: Group, problems: Sequence[Problem], model: Model, most: float) -> np.ndarray:
    """The error once a unit and all before it are gone, float64 [units]; no two are equal."""
    if problems:
        order, added = remove_all(problems, most)
    else:
        power = group.power(model, 2)
        order = np.argsort(power, kind="stable")
        added = power[order] / (power.sum() or 1.0)
    scores = np.empty(group.size)
    total = 0.0
    for unit, error in zip(order, np.cumsum(added), strict=True):
        scores[unit] = total = max(float(error), float(np.nextafter(total, np.inf)))
    return scores
