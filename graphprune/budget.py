"""How many units a group may keep: hardware-friendly widths that hold on every axis, and floors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import msgspec
import networkx as nx
import numpy as np

from graphprune.cost import Cost, Times
from graphprune.errors import TargetNotReachedError, UsageError
from graphprune.groups import Dependencies, Group
from graphprune.rules import Dim


@dataclass(frozen=True)
class Target:
    """How small a model is to be: the options of every pass that chooses units to meet a target.

    Attributes:
        macs: share of multiply-accumulates to keep, above 0 to 1.
        params: share of parameters to keep, above 0 to 1.
        size: share of the bytes of all weights to keep, above 0 to 1.
        latency: share of the time to keep, above 0 to 1; needs layers timed by ``time_layers``.
        units: share of the units to keep of all groups that compete together, above 0 to 1.
        among: regular expression; only groups with a matching axis name compete, the others keep what they have.
        multiple: every axis that is cut ends at a multiple of this.
        floor: share of units every group keeps at least, so that no layer collapses.
    """

    macs: float = 1.0
    params: float = 1.0
    size: float = 1.0
    latency: float = 1.0
    units: float = 1.0
    among: str = ""
    multiple: int = 1
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        for name in MEASURES:
            if not 0 < (share := getattr(self, name)) <= 1:
                raise UsageError(f"a {name} target of {share} is not above 0 and up to 1", "0.5 keeps half")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"a floor of {self.floor} is not between 0 and 1", "0.1 keeps a tenth of each group")
        if self.multiple < 1:
            raise UsageError(f"widths cannot be multiples of {self.multiple}", "1 allows any width")

    @property
    def asked(self) -> dict[str, float]:
        """The shares that are less than all, by name."""
        return {name: share for name in MEASURES if (share := getattr(self, name)) < 1}

    def competing(self, groups: Iterable[Group], scores: Mapping[str, np.ndarray]) -> list[Group]:
        """The groups that have scores and may be chosen from."""
        return [g for g in groups if g.name in scores and g.matches(self.among)]

    def times(self, data: Mapping[str, Any]) -> Times | None:
        """The timed layers that a pass left in ``data``; raises ``UsageError`` where they are needed and missing."""
        if "latency" in self.asked and "latency" not in data:
            raise UsageError("a latency target needs timed layers", 'write "..., time_layers, allocate(latency=0.6)"')
        return data.get("latency")

    def use(self, cost: Cost, before: Cost) -> float:
        """Share of the budget used, by the tightest of the targets: up to 1 is within it."""
        return max((kept(name, cost, before) / share for name, share in self.asked.items()), default=1.0)

    def unreachable(self, least: Cost, before: Cost) -> TargetNotReachedError:
        """What to raise where even ``least`` is above the target; the least of each measure is its ``nearest``."""
        nearest = {name: kept(name, least, before) for name in MEASURES if name != "latency" or before.latency}
        removed = {name: f"{1 - share:.1%} of the {MEASURES[name][1]}" for name, share in nearest.items()}
        told = [text for name, text in removed.items() if name in {"macs", "params", *self.asked}]
        return TargetNotReachedError(
            f"at most {', '.join(told[:-1])} and {told[-1]} can be removed",
            "ask for less, or lower --round-to or the floor",
            nearest,
        )


# What can be asked for: the field of ``Cost`` that counts it, and what people call it.
MEASURES = {
    "macs": ("macs", "MACs"),
    "params": ("parameters", "parameters"),
    "size": ("bytes", "bytes"),
    "latency": ("latency", "latency"),
    "units": ("channels", "units"),
}


def kept(measure: str, cost: Cost, before: Cost) -> float:
    """The share of one of ``MEASURES`` that ``cost`` keeps of ``before``; all, where there was none."""
    field = MEASURES[measure][0]
    whole = getattr(before, field)
    return getattr(cost, field) / whole if whole else 1.0


class Point(msgspec.Struct, frozen=True):
    """One choice of widths: the shares of multiply-accumulates and parameters it keeps, and its predicted error."""

    macs: float
    parameters: float
    error: float


class Tradeoff(msgspec.Struct, frozen=True):
    """What other budgets would have given: a pass that chooses by predicted error may leave it in ``data["tradeoff"]``.

    Attributes:
        of: the share that was to be met: ``macs`` or ``parameters``.
        chosen: the widths taken.
        points: choices of which none is better than another in that share and in error, the smallest first.
    """

    of: str
    chosen: Point
    points: list[Point]


@dataclass(frozen=True)
class Widths:
    """The unit counts a group may keep, ascending; the last is the largest, usually all of them."""

    counts: tuple[int, ...]

    def at_least(self, wanted: int) -> int:
        """The smallest legal count that is not below ``wanted``, or the largest there is."""
        return next((c for c in self.counts if c >= wanted), self.counts[-1])


def widths(
    dependencies: Dependencies, groups: Sequence[Group], multiple: int = 1, floor: float = 0.0
) -> dict[str, Widths]:
    """Legal widths of each of ``groups`` such that every axis that is cut ends at a multiple of ``multiple``.

    Groups that share an axis (a Concat) are judged together: their parts must each be multiples, and so must what
    remains of the axis; where that cannot be, none of them is cut.

    Args:
        dependencies: the analysis the groups come from.
        groups: those that may be cut; the others keep all their units.
        multiple: what every axis that is cut must be divisible by.
        floor: the share of units every group keeps at least.
    """
    sharing: dict[Dim, list[Group]] = {}
    for group in dependencies.groups:
        for dim in group.labels:
            sharing.setdefault(dim, []).append(group)
    selected = {g.name for g in groups}
    clusters = nx.Graph()
    clusters.add_nodes_from(g.name for g in dependencies.groups)
    for members in sharing.values():
        nx.add_path(clusters, [g.name for g in members])
    by_name = {g.name: g for g in dependencies.groups}
    found: dict[str, Widths] = {}
    for names in nx.connected_components(clusters):
        members = [by_name[n] for n in names if n in selected]
        options = {g.name: _counts(g, multiple, floor) for g in members}
        if not all(_rest(dim, sharing[dim], selected) % multiple == 0 for g in members for dim in g.labels) or not all(
            options.values()
        ):
            options = {g.name: (g.size,) for g in members}
        elif len(members) == 1 and multiple > 1:
            (only,) = members
            options = {only.name: tuple(sorted({*options[only.name], only.size}))}
        found |= {name: Widths(counts) for name, counts in options.items()}
    return found


def _counts(group: Group, multiple: int, floor: float) -> tuple[int, ...]:
    least = max(group.least, ceil(floor * group.size))
    per_unit = {group.per_unit(dim) for dim in group.labels}
    return tuple(n for n in range(least, group.size + 1) if all(n * p % multiple == 0 for p in per_unit))


def _rest(dim: Dim, sharing: Iterable[Group], selected: set[str]) -> int:
    """Positions of an axis that no selected group owns."""
    total = len(next(iter(sharing)).labels[dim])
    return total - sum(g.size * g.per_unit(dim) for g in sharing if g.name in selected)


def weakest(scores: Mapping[str, np.ndarray], kept: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The units to drop so that each group keeps its ``kept`` most important ones; ties go by position."""
    drop = {}
    for name, count in kept.items():
        removed = len(scores[name]) - count
        if removed:
            drop[name] = np.sort(np.argsort(scores[name], kind="stable")[:removed])
    return drop
