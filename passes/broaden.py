"""Let layers be refitted to drawn pictures as well as to noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphprune.calibration import layers
from graphprune.calibration.activations import Inputs, batched, has_images, synthetic
from graphprune.calibration.measured import Measured, mixed, sampled
from graphprune.calibration.noise import PICTURES
from graphprune.calibration.refit import calibrated, lost
from graphprune.calibration.statistics import FAR, Statistics, imposed, mismatch, observed, shrunk
from graphprune.model import Model
from graphprune.progress import track
from graphprune.state import State


@dataclass(frozen=True)
class Broaden:
    """Second moments of the layers that lost inputs, mixed with those of objects, strokes and writing.

    Noise shows every direction, pictures those that matter. What units are chosen on has to show all, or those go that
    other inputs need; what the weights that are left are fitted to is better the more it is like what flows there. The
    pictures are scaled in every layer to BatchNorm statistics, and kinds that are not far from these anyway are used as
    they are as well. Models without images, and those given real inputs, keep what they have.

    Attributes:
        share: of the moments that comes from pictures.
        count: pictures of each kind.
        seed: of the pictures and of the positions looked at.
        spread: range of the floating-point inputs.
    """

    share: float = 0.45
    count: int = 32
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)

    prepares: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """The same model, with other moments in ``data["calibration"]``."""
        calibration = calibrated(state, "broaden")
        losing = {layer.weight for _, layer, _ in lost(state.model, state)}
        if not losing or calibration.real or not has_images(state.model):
            return state
        model = batched(state.data["uncut"])
        found = {name: layer for name, layer in layers(model)[0].items() if name in losing}
        seen: dict[str, Measured] = {}
        for number, (looked_at, inputs) in enumerate(self._parts(model, calibration.statistics), 1):
            seen = mixed(seen, sampled(looked_at, found, inputs, self.seed), 1 / number)
        moments = dict(calibration.moments)
        for name, new in seen.items():
            second = self.share * np.stack([shrunk(part, new.count) for part in new.second])
            second += (1 - self.share) * moments[name].second
            if np.isfinite(second).all():
                moments[name] = replace(moments[name], second=second)
        return replace(state, data={**state.data, "calibration": replace(calibration, moments=moments)})

    def _parts(self, model: Model, statistics: Statistics) -> Iterator[tuple[Model, Inputs]]:
        """What is run on what: scaled, and as they are where the statistics are near."""
        for kind in track(tuple(PICTURES)):
            if statistics:
                scaled = synthetic(model, kind, self.count, self.seed, self.spread)
                yield imposed(model, statistics, observed(model, statistics, scaled)), scaled
            plain = synthetic(model, kind, self.count, self.seed + 1, self.spread)
            if not statistics or mismatch(model, statistics, plain) < FAR:
                yield model, plain
