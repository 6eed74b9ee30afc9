"""Where to draw things: the operators of a group in layers, and the ways of all groups through the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphprune.report import GroupReport, Member, Role

WIDTH, HEIGHT = 152, 36  # of an operator, in pixels
GAP, FALL = 16, 26  # between operators beside and below each other
MOST = 150  # operators drawn of one group
SWEEPS = 8
PITCH, ROW = 14, 20  # of the overview, in pixels: one layer along, one group down


@dataclass(frozen=True)
class Box:
    """An operator, by the middle of its upper edge."""

    member: Member
    x: float
    y: float


@dataclass(frozen=True)
class Layers:
    """A group's operators, each below those that hand it the units.

    Attributes:
        width: of the drawing, in pixels.
        height: of the drawing.
        boxes: the operators.
        lines: the path of each tensor between two of them, as SVG writes it.
        left_out: how many operators are not drawn.
    """

    width: float
    height: float
    boxes: Sequence[Box]
    lines: Sequence[str]
    left_out: int


@dataclass
class _Item:
    """What takes room in a row: an operator, or a line on its way to a lower row."""

    half: float
    above: list[_Item]
    below: list[_Item]
    x: float = 0.0


def layers(group: GroupReport) -> Layers:
    """The picture of a group (after Sugiyama, Tagawa & Toda 1981: layers, order by barycentres, positions)."""
    members = group.members[:MOST]
    at = {member.operator: k for k, member in enumerate(members)}
    sources = [[at[u] for u in member.after if u in at] for member in members]
    depth = _depths(sources)
    rows: list[list[_Item]] = [[] for _ in range(max(depth, default=-1) + 1)]
    items = [_Item(WIDTH / 2, [], []) for _ in members]
    for item, d in zip(items, depth, strict=True):
        rows[d].append(item)
    routes = []
    for k, sources_of in enumerate(sources):
        for u in sources_of:
            route = [items[u]]
            for d in range(depth[u] + 1, depth[k]):
                rows[d].append(_Item(0, [], []))
                route.append(rows[d][-1])
            route.append(items[k])
            for upper, lower in itertools.pairwise(route):
                upper.below.append(lower)
                lower.above.append(upper)
            routes.append((depth[u], route))
    _arrange(rows)
    left = min((i.x - i.half for row in rows for i in row), default=0.0)
    right = max((i.x + i.half for row in rows for i in row), default=0.0)
    for item in (i for row in rows for i in row):
        item.x += 1 - left

    def y(row: int) -> float:
        return 1 + row * (HEIGHT + FALL)

    boxes = [Box(m, item.x, y(d)) for m, item, d in zip(members, items, depth, strict=True)]
    lines = [_path(first, route, y) for first, route in routes]
    height = y(len(rows) - 1) + HEIGHT + 1 if rows else 0.0
    return Layers(right - left + 2, height, boxes, lines, len(group.members) - len(members))


def _depths(sources: Sequence[Sequence[int]]) -> list[int]:
    """The row of each operator: below all that feed it; one that nothing feeds stands right above its first reader."""
    depth: list[int] = []
    for above in sources:
        depth.append(max((depth[u] + 1 for u in above), default=0))
    for k, above in enumerate(sources):
        readers = [depth[v] for v, others in enumerate(sources) if k in others]
        if not above and readers:
            depth[k] = min(readers) - 1
    return depth


def _arrange(rows: list[list[_Item]]) -> None:
    """Order each row by what it is joined with, then draw it there, operators staying apart."""
    for row in rows:
        _spread(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = {id(i): _mean(i.above if sweep % 2 == 0 else i.below, i.x) for i in row}
            if sweep < SWEEPS // 2:
                row.sort(key=lambda i: wanted[id(i)])
            _spread(row, [wanted[id(i)] for i in row])


def _mean(items: Sequence[_Item], otherwise: float) -> float:
    return sum(i.x for i in items) / len(items) if items else otherwise


def _spread(row: Sequence[_Item], wanted: Sequence[float]) -> None:
    """As near to the places wanted as order and distance allow: the mean of pushing to the right and to the left."""
    right, left = [*wanted], [*wanted]
    for k in range(1, len(row)):
        apart = row[k - 1].half + row[k].half + GAP
        right[k] = max(right[k], right[k - 1] + apart)
    for k in range(len(row) - 1, 0, -1):
        apart = row[k - 1].half + row[k].half + GAP
        left[k - 1] = min(left[k - 1], left[k] - apart)
    for item, a, b in zip(row, left, right, strict=True):
        item.x = (a + b) / 2


def _path(first: int, route: Sequence[_Item], y: Callable[[int], float]) -> str:
    parts = [f"M{route[0].x:.0f} {y(first) + HEIGHT:.0f}"]
    for row, (upper, lower) in enumerate(itertools.pairwise(route), first + 1):
        middle = y(row) - FALL / 2
        parts.append(f"C{upper.x:.0f} {middle:.0f} {lower.x:.0f} {middle:.0f} {lower.x:.0f} {y(row):.0f}")
        if lower is not route[-1]:
            parts.append(f"V{y(row) + HEIGHT:.0f}")
    return "".join(parts)


# ------------------------------------------------------------------------------------------------------- all groups


@dataclass(frozen=True)
class Mark:
    """An operator on the way of a group."""

    member: Member
    x: float


@dataclass(frozen=True)
class Way:
    """A group as a line across the model: where it is made and read."""

    number: int
    group: GroupReport
    y: float
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Overview:
    """Every group's way through the layers, in graph order from left to right."""

    width: float
    height: float
    ways: Sequence[Way]


def overview(groups: Sequence[GroupReport], room: int) -> Overview:
    """The ways of as many groups as fit with ``room`` marks in all."""
    touched = sorted({m.operator for g in groups for m in _ends(g)})
    column = {operator: k for k, operator in enumerate(touched)}
    ways = []
    for number, group in enumerate(groups, 1):
        ends = _ends(group)
        room -= len(ends)
        if room < 0:
            break
        marks = [Mark(m, 40 + PITCH * column[m.operator]) for m in ends]
        ways.append(Way(number, group, ROW * (number - 0.5), marks))
    return Overview(50 + PITCH * len(touched), ROW * len(ways), ways)


def _ends(group: GroupReport) -> list[Member]:
    """Where units start and end; what lies between carries them along."""
    return [m for m in group.members if m.roles != [Role.CARRIES]]
