"""Find out what flows into every layer, with no data or with a few unlabelled inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.calibration import Calibration, calibrate
from graphprune.calibration.activations import real
from graphprune.model.session import running_on
from graphprune.state import State


@dataclass(frozen=True)
class Calibrate:
    """Second moments of every layer's input, left in ``data["calibration"]``; see ``graphprune.calibration``.

    Attributes:
        count: made-up inputs of each kind; sequences of tokens are as many as layers need, and at least this.
        seed: of the noise.
        spread: range of the floating-point inputs as a pair, e.g. ``(0, 1)``.
        effort: spent on inputs that match BatchNorm statistics, 1 is about a minute; 0 does without them.
        given: whether real inputs, which the caller left in ``data["inputs"]``, must be used too.
        vocabulary: how many tokens a model that reads them knows; by default the length of its embedding.
        provider: what the model is run on, ``cpu`` or ``cuda``.
    """

    count: int = 64
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)
    effort: float = 0.0
    given: bool = False
    vocabulary: int | None = None
    provider: str = "cpu"

    prepares: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """The same model, with ``data["calibration"]``."""
        inputs = real(state.data) if self.given else state.data.get("inputs")
        if not state.groups:  # cut will say why
            return replace(state, data={**state.data, "calibration": Calibration({}, {}, {}, {}, "nothing")})
        with running_on(self.provider):
            found = calibrate(
                state.model,
                state.data.get("batchnorm", {}),
                count=self.count,
                seed=self.seed,
                spread=self.spread,
                effort=self.effort,
                given=inputs,
                vocabulary=self.vocabulary,
                losing={dim for group in state.groups for dim in group.weights},
            )
        notes = (*state.data.get("notes", ()), f"calibrated on {found.source}")
        return replace(state, data={**state.data, "calibration": found, "notes": notes})
