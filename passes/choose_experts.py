"""Choose experts of mixtures to remove: those whose loss the outputs notice least, or that are asked least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphprune.budget import weakest
from graphprune.calibration.activations import Inputs, assorted, batched, real, run, split
from graphprune.calls import routings
from graphprune.cut import Drop, absentable, gone
from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.groups import Group
from graphprune.progress import track
from graphprune.proof import Runner
from graphprune.rules import Dim, Routing
from graphprune.state import State

TOGETHER = 8  # inputs that are run at a time, where the model takes several


@dataclass(frozen=True)
class ChooseExperts:
    """Add to ``drop`` the experts that are missed least, as many of every mixture.

    ``output`` is greedy: from one mixture after the other the expert goes without which the outputs move least,
    measured anew each time. ``selection`` takes those that their router is expected to ask least, measured once: the
    score of an expert is its share of a token by a softmax over the logits of the experts chosen for it, 0 where it is
    not among them, mean over tokens (expected selection score; PreMoe, Pei et al. 2025). Either way what is left shares
    out all there is.

    Attributes:
        count: how many experts of every mixture go, a whole number, or which share of them, a ``float`` up to 1.0.
        by: ``output`` or ``selection``.
        inputs: how many inputs are made up.
        seed: of these inputs.
        spread: range of the floating-point inputs as a pair.
        given: whether real inputs, which the caller left in ``data["inputs"]``, are used instead.
    """

    count: float = 0.25
    by: str = "output"
    inputs: int = 12
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)
    given: bool = False

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for options that mean nothing."""
        if not (self.count > 0 if isinstance(self.count, int) else 0 < self.count <= 1):
            raise UsageError(f"{self.count} experts cannot be removed", "give a whole number, or a share such as 0.25")
        if self.by not in ("output", "selection"):
            raise UsageError(f"experts are not chosen by '{self.by}'", "by output or selection")

    def __call__(self, state: State) -> State:
        """The same model with more in ``drop``, and a note on what each mixture loses."""
        if not state.experts:
            raise NothingToPruneError(
                f"{state.model.name} has no experts to remove: no router that chooses among units",
                "`graphprune inspect` says why an axis stays; --include and --exclude also narrow the choice",
            )
        inputs = real(state.data) if self.given else assorted(state.model, self.inputs, self.seed, self.spread)
        going = {group.name: self._going(group) for group in state.experts}
        if self.by == "output":
            drop = _missed_least(state, going, inputs)
        else:
            scores = {group.name: found for group, found in _scored(state, inputs)}
            drop = weakest(scores, {group.name: group.size - going[group.name] for group in state.experts})
        notes = [f"of {name}, {len(units)} experts removed: {units.tolist()}" for name, units in drop.items()]
        data = {**state.data, "notes": (*state.data.get("notes", ()), *notes)}
        return replace(state, drop={**state.drop, **drop}, data=data)

    def _going(self, group: Group) -> int:
        asked = self.count if isinstance(self.count, int) else round(self.count * group.size)
        if group.size - asked < group.least:
            raise TargetNotReachedError(
                f"{group.name} has {group.size} experts, of which {group.least} are chosen at a time: "
                f"{asked} cannot go",
                f"remove at most {group.size - group.least}",
            )
        return asked


def _missed_least(state: State, going: dict[str, int], inputs: Inputs) -> Drop:
    """Which experts go, chosen one after another by how far the outputs move without them."""
    groups = {group.name: group for group in state.experts}
    dims = list(
        dict.fromkeys(dim for _, dim, _ in routings(state.model) if any(dim in g.labels for g in state.experts))
    )
    opened = batched(state.model)
    runner = Runner(absentable(opened, dims), optimise=True)
    batches = split(opened, inputs, TOGETHER)

    def outputs(drop: Drop) -> list[np.ndarray]:
        masks = gone(state.experts, drop)
        absent = {f"{d}:gone": masks.get(d, np.zeros(state.model.shapes[d.tensor][d.axis] or 0, bool)) for d in dims}
        results = runner.each([{**batch, **absent} for batch in batches])
        return [
            values.astype(np.float64) for result in results for values in result.values() if values.dtype.kind == "f"
        ]

    reference = outputs({})
    gone_so_far: dict[str, list[int]] = {name: [] for name in groups}
    for step in track(range(max(going.values()))):
        for name, group in groups.items():
            if step >= going[name]:
                continue
            moved = np.full(group.size, np.inf)
            for unit in range(group.size):
                if unit not in gone_so_far[name]:
                    tried = {**gone_so_far, name: [*gone_so_far[name], unit]}
                    found = outputs({n: np.array(units, np.int64) for n, units in tried.items()})
                    moved[unit] = sum(float(np.square(a - b).sum()) for a, b in zip(found, reference, strict=True))
            gone_so_far[name].append(int(np.argmin(moved)))
    return {name: np.array(sorted(units), np.int64) for name, units in gone_so_far.items() if units}


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
