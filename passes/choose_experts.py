"""Choose experts of mixtures to remove: those that their router asks least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphprune.budget import weakest
from graphprune.calibration.activations import Inputs, assorted, batched, run
from graphprune.calls import routings
from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.groups import Group
from graphprune.rules import Dim, Routing
from graphprune.state import State


@dataclass(frozen=True)
class ChooseExperts:
    """Add to ``drop`` the experts that are expected to be asked least, the same share of every mixture.

    An expert's score is what it is expected to get of a token: its share by a softmax over the logits of the experts
    that are chosen for that token, 0 where it is not among them, mean over tokens (expected selection score; PreMoe,
    Pei et al. 2025). Without one, what is left shares out all there is.

    Attributes:
        count: how many experts of every mixture go, or as a number with a point which share of them, up to 1.0.
        inputs: how many inputs are made up.
        seed: of these inputs.
        spread: range of the floating-point inputs as a pair.
        given: whether real inputs, which the caller left in ``data["inputs"]``, are used instead.
    """

    count: float = 0.25
    inputs: int = 12
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)
    given: bool = False

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for an amount that means nothing."""
        if self.count <= 0 or (isinstance(self.count, float) and self.count > 1):
            raise UsageError(f"{self.count} experts cannot be removed", "give a whole number, or a share such as 0.25")

    def __call__(self, state: State) -> State:
        """The same model with more in ``drop``, and a note on what each mixture loses."""
        if not state.experts:
            raise NothingToPruneError(
                f"{state.model.name} has no experts to remove: no router that chooses among units",
                "`graphprune inspect` says why an axis stays; --include and --exclude also narrow the choice",
            )
        if self.given and "inputs" not in state.data:
            raise UsageError("this pipeline was made with real inputs and needs them", "give --calibration-data x.npz")
        inputs = state.data["inputs"] if self.given else assorted(state.model, self.inputs, self.seed, self.spread)
        scores = {group.name: found for group, found in _scored(state, inputs)}
        kept = {}
        for group in state.experts:
            asked = self.count if isinstance(self.count, int) else round(self.count * group.size)
            if group.size - asked < group.least:
                raise TargetNotReachedError(
                    f"{group.name} has {group.size} experts, of which {group.least} are chosen at a time: "
                    f"{asked} cannot go",
                    f"remove at most {group.size - group.least}",
                )
            kept[group.name] = group.size - asked
        drop = weakest(scores, kept)
        notes = [
            f"of {group.name}, {len(drop[group.name])} of {group.size} experts removed, which were expected to get "
            f"{scores[group.name][drop[group.name]].sum():.1%} of all tokens"
            for group in state.experts
            if group.name in drop
        ]
        data = {**state.data, "notes": (*state.data.get("notes", ()), *notes)}
        return replace(state, drop={**state.drop, **drop}, data=data)


def _scored(state: State, inputs: Inputs) -> Iterator[tuple[Group, np.ndarray]]:
    """Every group of experts with the expected selection score of each expert, float64 [experts]."""
    routers: dict[str, list[tuple[Dim, Routing]]] = {group.name: [] for group in state.experts}
    for _, dim, routing in routings(state.model):
        for group in state.experts:
            if dim in group.labels:
                routers[group.name].append((dim, routing))
    logits = {name: found[0][0] for name, found in routers.items()}  # the first: later ones read what it makes of them
    chosen = {name: min((r.chosen for _, r in found if r.chosen), default=0) for name, found in routers.items()}
    totals = {name: (0.0, 0) for name in routers}
    for values in run(batched(state.model), [dim.tensor for dim in logits.values()], inputs):
        for group in state.experts:
            dim = logits[group.name]
            tokens = np.moveaxis(values[dim.tensor], dim.axis, -1)[..., group.positions(dim)[:, 0]]
            shares = selection(tokens.reshape(-1, group.size), chosen[group.name])
            total, count = totals[group.name]
            totals[group.name] = total + shares.sum(axis=0), count + len(shares)
    for group in state.experts:
        total, count = totals[group.name]
        yield group, np.asarray(total) / max(count, 1)


def selection(logits: np.ndarray, chosen: int) -> np.ndarray:
    """What every expert gets of every token: the softmax of the ``chosen`` greatest logits (0: of all), else 0.

    Args:
        logits: [tokens, experts].
        chosen: experts of a token.

    Returns:
        float64 [tokens, experts]; rows sum to 1.
    """
    logits = logits.astype(np.float64)
    if chosen:
        threshold = np.sort(logits, axis=1)[:, -chosen][:, None]
        logits = np.where(logits >= threshold, logits, -np.inf)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
