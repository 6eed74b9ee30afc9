"""Points in a coordinate system, as an SVG drawing that stands in a page of any width or in a file of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

HEIGHT = 280  # pixels, labels included
# The area of the points inside the drawing: across in per cent, so that it follows the width; down in pixels.
_LEFT, _WIDTH, _TOP, _BOTTOM = 10.0, 82.0, 38, 238
# The width that labels are placed for, that of a phone, and of a letter, in pixels.
_NOMINAL, _LETTER = 340, 6.4
_INK, _QUIET, _LINE, _ACCENT = (
    "var(--ink, #1c1e21)",
    "var(--quiet, #5b6068)",
    "var(--line, #d8dbdf)",
    "var(--accent, #22587f)",
)


class Dot(NamedTuple):
    """One point.

    Attributes:
        label: written beside it where it is marked, and shown on hovering everywhere.
        x: along.
        y: up.
        marked: whether it stands out.
    """

    label: str
    x: float
    y: float
    marked: bool = False


def scatter(
    dots: Sequence[Dot],
    *,
    x_title: str,
    y_title: str,
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = "{:g}".format,
    joined: bool = False,
) -> Markup:
    """The drawing; axes start at 0.

    Args:
        dots: finite points with coordinates from 0 up.
        x_title: what is along.
        y_title: what is up.
        x_text: how a figure along is written.
        y_text: how a figure up is written.
        joined: whether a line goes through the points, in their order.
    """
    across, up = _ticks(max((d.x for d in dots), default=0)), _ticks(max((d.y for d in dots), default=0))

    def x(value: float) -> float:
        return _LEFT + _WIDTH * value / across[-1]

    def y(value: float) -> float:
        return _BOTTOM + (_TOP - _BOTTOM) * value / up[-1]

    parts = [
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" class="plot" width="640" height="{}" role="img" font-size="12" '
            'font-family="system-ui, sans-serif" fill="{}"><title>{} against {}</title>'
        ).format(HEIGHT, _QUIET, y_title, x_title)
    ]
    for value in up:
        parts.append(
            Markup('<line x1="{0}%" x2="{1}%" y1="{2:.1f}" y2="{2:.1f}" stroke="{3}"/>').format(
                _LEFT, _LEFT + _WIDTH, y(value), _LINE
            )
        )
        parts.append(_text(f"{_LEFT - 1:.2f}%", y(value) + 4, y_text(value), "end"))
    for value in across:
        parts.append(_text(f"{x(value):.2f}%", _BOTTOM + 18, x_text(value), "middle"))
    parts.append(_text(f"{_LEFT + _WIDTH}%", _BOTTOM + 38, x_title, "end"))
    if joined:
        for a, b in itertools.pairwise(dots):
            parts.append(
                Markup(
                    '<line x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}" stroke="{}" stroke-width="1.5"/>'
                ).format(x(a.x), y(a.y), x(b.x), y(b.y), _ACCENT)
            )
    for dot in sorted(dots, key=lambda d: d.marked):
        text = f"{dot.label}: {x_text(dot.x)}, {y_text(dot.y)}" if dot.label else f"{x_text(dot.x)}, {y_text(dot.y)}"
        parts.append(
            Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="{}" fill="{}"><title>{}</title></circle>').format(
                x(dot.x), y(dot.y), 5 if dot.marked else 3, _INK if dot.marked else _ACCENT, text
            )
        )
    parts.extend(_labels([(d, x(d.x), y(d.y)) for d in dots]))
    parts.append(_text("0", 12, y_title, "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def _labels(placed: Sequence[tuple[Dot, float, float]]) -> Iterator[Markup]:
    """The labels of marked points, each beside, above or below its point, where it meets no other; else none."""
    taken = [(_NOMINAL * x / 100 - 6, y - 6, _NOMINAL * x / 100 + 6, y + 6) for _, x, y in placed]
    for dot, x, y in placed:
        if not dot.marked or not dot.label:
            continue
        middle, width = _NOMINAL * x / 100, _LETTER * len(dot.label)
        for anchor, aside, start, down in (
            ("start", 10, middle + 8, 4),
            ("end", -10, middle - 8 - width, 4),
            ("middle", 0, middle - width / 2, -11),
            ("end", 6, middle + 6 - width, -11),
            ("middle", 0, middle - width / 2, 20),
            ("end", 6, middle + 6 - width, 20),
        ):
            box = (start, y + down - 9, start + width, y + down + 3)
            if start >= 0 and box[2] <= _NOMINAL and box[3] <= _BOTTOM and not any(_meet(box, t) for t in taken):
                taken.append(box)
                yield _text(f"{x:.2f}%", y + down, dot.label, anchor, _INK, aside)
                break


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(x: str, y: float, text: str, anchor: str, fill: str = _QUIET, aside: int = 0) -> Markup:
    return Markup('<text x="{}" y="{:.1f}" text-anchor="{}" fill="{}"{}>{}</text>').format(
        x, y, anchor, fill, Markup(' dx="{}"').format(aside) if aside else "", text
    )


def _ticks(most: float) -> list[float]:
    """Round figures from 0 to at least ``most``, three to six of them."""
    if most <= 0:
        return [0, 1]
    step = 10 ** math.floor(math.log10(most))
    step = next(step * f for f in (0.2, 0.25, 0.5, 1, 2) if most / (step * f) <= 5)
    return [k * step for k in range(math.ceil(most / step - 1e-9) + 1)]
