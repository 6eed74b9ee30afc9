"""Which channels live and die together: the groups of a model, and a reason for every axis left alone.

Positions of axes connected through the ties of the dependency graph form a *unit*: remove one, remove all. A *group* is
a set of units that touch the same axes the same number of times: interchangeable, so that they compete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from math import prod
from types import MappingProxyType

import networkx as nx
import numpy as np

from graphprune.calls import zero_points
from graphprune.collector import paused
from graphprune.coupling import Cluster, PinnedBy, Settled, clusters, couple, settle
from graphprune.model import Model
from graphprune.model.weights import blocks
from graphprune.rules import Dim, Rule, Tie


@dataclass(frozen=True, slots=True)
class Pinned:
    """Why an axis, or some positions of it, stay: the node that holds it and what that node says.

    ``via`` is the axis the reason is about, where it is another one, coupled to this.
    """

    dim: Dim
    size: int
    node: str
    op: str
    why: str
    via: Dim


@dataclass(frozen=True, eq=False)
class Group:
    """Interchangeable units.

    Attributes:
        name: the first weight axis it touches, in graph order.
        size: number of units.
        labels: for every axis touched, int64 [axis size]: the unit a position belongs to, -1 for none of this group.
        weights: the touched axes that belong to floating-point constants.
        inexact: whether cutting a unit changes more than zeroing it would, so that the law cannot prove it.
        routed: whether something is shared out among the units or chosen from them, as among the experts of a mixture.
        least: how many units have to stay.
    """

    name: str
    size: int
    labels: Mapping[Dim, np.ndarray]
    weights: tuple[Dim, ...]
    inexact: bool = False
    routed: bool = False
    least: int = 1

    def per_unit(self, dim: Dim) -> int:
        """How many positions of ``dim`` one unit owns."""
        return int((self.labels[dim] == 0).sum())

    def matches(self, pattern: str) -> bool:
        """Whether a regular expression is found in the name of an axis touched."""
        return any(re.search(pattern, str(dim)) for dim in self.labels)

    def positions(self, dim: Dim) -> np.ndarray:
        """Where each unit lies on an axis, int64 [units, per unit], ascending."""
        labels = self.labels[dim]
        return np.argsort(labels, kind="stable")[int((labels < 0).sum()) :].reshape(self.size, -1)

    def summed(self, dim: Dim, values: np.ndarray) -> np.ndarray:
        """Values of the positions of an axis, float64 [axis size], summed for every unit, [units]."""
        labels = self.labels[dim]
        return np.bincount(labels[labels >= 0], values[labels >= 0], self.size)

    def power(self, model: Model, exponent: float) -> np.ndarray:
        """Sum of |w| ** exponent over the parameters that each unit owns, float64 [units]."""
        total = np.zeros(self.size)
        for dim in self.weights:
            total += self.summed(dim, _power(model, dim, exponent))
        return total

    def parameters(self, model: Model) -> int:
        """How many parameters one unit owns; one that two of its axes share counts twice."""
        shapes = {dim: model.constants[dim.tensor].shape for dim in self.weights}
        return sum(self.per_unit(dim) * prod(shape) // shape[dim.axis] for dim, shape in shapes.items())

    def __str__(self) -> str:
        axes = ", ".join(str(d) for d in self.labels)
        return f"{self.name}: {self.size} units over {axes}"


@dataclass(frozen=True, eq=False)
class Dependencies:
    """The analysis of one model: an unchanging value, made anew when the model changes."""

    graph: nx.MultiGraph
    groups: tuple[Group, ...]
    pinned: tuple[Pinned, ...]


def _power(model: Model, dim: Dim, exponent: float) -> np.ndarray:
    """Sum of |w| ** exponent over everything at each position of a weight's axis, float64 [axis size]."""
    sums = []
    constant = model.constants[dim.tensor]
    zero = 0 if constant.dtype.kind == "f" else zero_points(model)[dim.tensor]
    for block in blocks(constant):
        powers = np.abs(block.astype(np.float64) - zero) ** exponent
        sums.append(powers.sum(axis=tuple(k for k in range(block.ndim) if k != dim.axis)))
    return np.concatenate(sums) if dim.axis == 0 else np.sum(sums, axis=0)


@paused()
def analyse(model: Model, rules: Mapping[str, Rule] | None = None, *, inexact: bool = False) -> Dependencies:
    """Find the groups of a model and the reason for every axis that is in none.

    With ``inexact``, axes that can be cut but not proved, such as those of experts that are routed to, are free.

    Where a rule leaves a choice (attention heads or their width, whole groups of channels or offsets in them), the
    options are tried as seen from the outermost and from the innermost axis, operator by operator, and what frees most
    weight axes stands; choices that have nothing to do with one another are taken apart.
    """
    graph, choices = couple(model, rules, inexact=inexact)
    zeros = zero_points(model)

    def freed(cluster: Cluster, settled: Settled) -> tuple[int, int, int]:
        ties = [*cluster.ties, *settled.ties]
        units = _Units(graph, cluster.dims, ties, settled.pins)
        return _freed(model, [*_groups(model, units, zeros)], ties)

    for cluster in clusters(graph, choices):
        tried = []
        operators = dict.fromkeys(op for _, op, _ in cluster.choices)
        for innermost in chain.from_iterable(combinations(operators, n) for n in range(len(operators) + 1)):
            tried.append(settle(graph, cluster, innermost))
            if not tried[-1].ambiguous:
                break
        best = max(tried, key=partial(freed, cluster)) if len(tried) > 1 else tried[0]
        best.add_to(graph)
    units = _Units(graph, list(graph.nodes), [tie for *_, tie in graph.edges(data="tie")])
    groups = tuple(_groups(model, units, zeros))
    return Dependencies(graph, groups, tuple(_pinned(model, units, groups)))


def _freed(model: Model, found: Sequence[Group], ties: Sequence[Tie]) -> tuple[int, int, int]:
    """How many parameters lie in weights that can shrink, in few products of computed tensors, and in fine units.

    An attention head goes before a part of every head's product of queries and keys.
    """
    groups = [group for group in found if not group.routed]
    weights = {dim.tensor for group in groups for dim in group.weights}
    cut = {dim for group in groups for dim in group.labels}
    thinned = sum(t.summed and t.a in cut and not {t.a.tensor, t.b.tensor} & model.constants.keys() for t in ties)
    size = sum(prod(model.constants[name].shape) for name in weights)
    return size, -thinned, sum(group.size * len(group.weights) for group in groups)


class _Units:
    """Which positions of axes are connected, and what holds them.

    Args:
        graph: knows the axes.
        dims: those to look at, with all they are tied to.
        ties: between them.
        more: pins by axis, besides those in the graph.

    Attributes:
        axis: the first axis whose positions are those of an axis, by axis: what whole ties join is one.
        at: where the positions of such a first axis begin and end in the arrays.
        unit: int64 [positions], the smallest position each is connected to.
        component: int64 [axes], the first axis each is connected to.
        pins: the axis, the node, its operator and why.
        held: int64 [positions], the first pin met on the unit that a position begins, -1 for none.
    """

    def __init__(
        self,
        graph: nx.MultiGraph,
        dims: Sequence[Dim],
        ties: Sequence[Tie],
        more: Mapping[Dim, Sequence[PinnedBy]] = MappingProxyType({}),
    ) -> None:
        self.dims, self.known = dims, {dim: graph.nodes[dim] for dim in dims}
        order = {dim: k for k, dim in enumerate(dims)}
        joined = np.array([(order[t.a], order[t.b]) for t in ties], np.int64).reshape(-1, 2)
        whole = np.array([self._is_whole(t) for t in ties], bool)
        self.component = _connect(len(dims), [(joined[:, 0], joined[:, 1])])
        same = _connect(len(dims), [(joined[whole, 0], joined[whole, 1])])
        self.axis = {dim: dims[k] for dim, k in zip(dims, same.tolist(), strict=True)}
        self.at: dict[Dim, slice] = {}
        end = 0
        for dim in dict.fromkeys(self.axis.values()):
            self.at[dim] = slice(end, end := end + self.known[dim]["size"])
        start = {dim: self.at[axis].start for dim, axis in self.axis.items()}
        rest = (t for t, one in zip(ties, whole.tolist(), strict=True) if not one)
        self.unit = _connect(end, [(start[t.a] + t.at_a, start[t.b] + t.at_b) for t in rest])
        # The first pin met on a unit is the one reported; interface pins come first, being the ones users recognise.
        self.held = np.full(len(self.unit), -1, np.int64)
        self.pins: list[tuple[Dim, str, str, str]] = []
        for dim in dims:
            for node, op, why, at in chain(self.known[dim]["pins"], more.get(dim, ())):
                own = self.of(dim) if at is None else self.unit[start[dim] + at]
                self.held[own[self.held[own] < 0]] = len(self.pins)
                self.pins.append((dim, node, op, why))

    def _is_whole(self, tie: Tie) -> bool:
        """Whether a tie joins all positions of two axes in order."""
        every = np.arange(self.known[tie.a]["size"])
        return self.known[tie.b]["size"] == len(every) and all(
            len(at) == len(every) and bool((at == every).all()) for at in (tie.at_a, tie.at_b)
        )

    def of(self, dim: Dim) -> np.ndarray:
        """The unit of every position of an axis."""
        return self.unit[self.at[self.axis[dim]]]

    def holding(self, dim: Dim) -> np.ndarray:
        """What holds each position of an axis, as in ``held``."""
        return self.held[self.of(dim)]


def _pinned(model: Model, units: _Units, groups: Sequence[Group]) -> Iterator[Pinned]:
    """Why the axes stay that are in no group as a whole."""
    grouped: set[Dim] = {dim for group in groups for dim in group.labels}
    for dim in units.dims:
        size = units.known[dim]["size"]
        if size < 2 or _is_index(model, dim):
            continue
        held = units.holding(dim)
        held = held[held >= 0]
        if len(held):
            via, node, op, why = units.pins[held[0]]
            yield Pinned(dim, size, node, op, why, via)
        elif dim not in grouped:
            yield Pinned(dim, size, "", "", "a single unit: nothing would be left", dim)


def _is_index(model: Model, dim: Dim) -> bool:
    """Whether the axis is of a list of whole numbers: sizes, axes and indices are no channels, and need no reason."""
    constant = model.constants.get(dim.tensor)
    return constant is not None and len(constant.shape) == 1 and getattr(constant.dtype, "kind", "") in "iub"


def _connect(total: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest of ``total`` numbers that each is connected to by pairs, int64 [total].

    Min-label propagation that hooks roots and halves paths (Shiloach & Vishkin 1982), on whole arrays.
    """
    label = np.arange(total)
    if not pairs:
        return label
    a, b = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    while True:
        left, right = label[a], label[b]
        apart = left != right
        if not apart.any():
            return label
        a, b, left, right = a[apart], b[apart], left[apart], right[apart]
        np.minimum.at(label, np.maximum(left, right), np.minimum(left, right))
        while (label != (jumped := label[label])).any():
            label = jumped


def _groups(model: Model, units: _Units, zeros: Mapping[str, int]) -> Iterator[Group]:
    """Split the free units of each component of tied axes into groups, in graph order."""
    constants, known = model.constants, units.known
    reads = {name: k for k, name in enumerate(constants)}
    found: list[Group] = []
    components: dict[int, list[Dim]] = {}
    for dim, root in zip(units.dims, units.component.tolist(), strict=True):
        components.setdefault(root, []).append(dim)
    for dims in components.values():
        at = {axis: units.of(axis) for axis in dict.fromkeys(units.axis[d] for d in dims)}
        free = np.unique(np.concatenate([*at.values()]))
        free = free[units.held[free] < 0]
        if len(free) < 2:
            continue
        local = {axis: np.searchsorted(free, own).clip(max=len(free) - 1) for axis, own in at.items()}
        local = {axis: np.where(free[k] == at[axis], k, -1) for axis, k in local.items()}
        touched = [axis for axis, own in local.items() if (own >= 0).any()]
        kind = np.zeros(len(free), np.int64)  # refined axis by axis until equal kinds touch equal axes
        for axis in touched:
            count = np.bincount(local[axis][local[axis] >= 0], minlength=len(free))
            kind = np.unique(kind * (int(count.max()) + 1) + count, return_inverse=True)[1]
        sizes = np.bincount(kind)
        for value in dict.fromkeys(kind[sizes[kind] > 1].tolist()):
            members = np.flatnonzero(kind == value)
            number = np.full(len(free) + 1, -1, np.int64)  # the last entry serves positions of no free unit
            number[members] = np.arange(len(members))
            owned = {axis: number[local[axis]] for axis in touched}
            owned = {axis: label for axis, label in owned.items() if (label >= 0).any()}
            labels = {d: owned[units.axis[d]] for d in dims if units.axis[d] in owned}
            weights = [
                d
                for d in labels
                if d.tensor in constants and (constants[d.tensor].dtype.kind == "f" or d.tensor in zeros)
            ]
            if weights:
                weights.sort(key=lambda d: (reads[d.tensor], d.axis))
                inexact = any(known[d]["inexact"] for d in labels)
                least = max(known[d]["least"] for d in labels)
                if least >= len(members):
                    continue
                name = str(weights[0])
                found.append(Group(name, len(members), labels, tuple(weights), inexact, least > 0, max(1, least)))
    found.sort(
        key=lambda g: (reads[g.weights[0].tensor], g.weights[0].axis, int(np.argmax(g.labels[g.weights[0]] >= 0)))
    )
    seen: dict[str, int] = {}
    for group in found:
        seen[group.name] = seen.get(group.name, 0) + 1
        name = group.name if seen[group.name] == 1 else f"{group.name}#{seen[group.name]}"
        yield replace(group, name=name)
