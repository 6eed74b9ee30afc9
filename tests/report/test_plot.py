"""Points lie where their figures say, and texts are escaped."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from graphprune.report import plot
from graphprune.report.plot import Dot, scatter

SVG = "{http://www.w3.org/2000/svg}"


def parts(svg: str, tag: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall(SVG + tag)


def test_points_are_placed_to_scale():
    svg = scatter([Dot("a", 0, 0), Dot("b", 50, 1), Dot("c", 100, 2, True)], x_title="x", y_title="y")
    places = {c[0].text: (float(c.get("cx").rstrip("%")), float(c.get("cy"))) for c in parts(svg, "circle")}
    (ax, ay), (bx, by), (cx, cy) = (
        places[f"{n}: {x:g}, {y:g}"] for n, x, y in [("a", 0, 0), ("b", 50, 1), ("c", 100, 2)]
    )
    assert bx - ax == pytest.approx(cx - bx)
    assert ay - by == pytest.approx(by - cy)
    assert ay > cy
    assert [t.text for t in parts(svg, "text")].count("c") == 1


def test_a_line_joins_the_points_in_their_order():
    dots = [Dot("", x, x) for x in (1, 2, 3)]
    lines = len(parts(scatter(dots, x_title="x", y_title="y"), "line"))
    assert len(parts(scatter(dots, x_title="x", y_title="y", joined=True), "line")) == lines + 2


def test_it_stands_alone():
    assert 'width="640" height="280"' in scatter([], x_title="x", y_title="y")


def test_names_are_escaped():
    svg = scatter([Dot("<script>&", 1, 1, True)], x_title='"<', y_title="<&")
    assert "<script" not in svg
    assert parts(svg, "circle")[0][0].text == "<script>&: 1, 1"


@pytest.mark.parametrize("dots", [[], [Dot("a", 0, 0, True)]])
def test_little_to_show_is_shown(dots):
    assert len(parts(scatter(dots, x_title="x", y_title="y"), "circle")) == len(dots)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.52, [0, 0.2, 0.4, 0.6]),
        (16, [0, 5, 10, 15, 20]),
        (21.4, [0, 5, 10, 15, 20, 25]),
    ],
)
def test_ticks_are_round(most, ticks):
    assert plot._ticks(most) == pytest.approx(ticks)


def test_a_label_meets_no_other_and_no_point():
    dots = [Dot("first", 1, 1, True), Dot("second", 1.1, 1, True), Dot("far", 10, 1, True)]
    texts = {t.text: t for t in parts(scatter(dots, x_title="x", y_title="y"), "text")}
    assert [texts[d.label].get("text-anchor") for d in dots] == ["end", "start", "start"]
    near = [Dot("first one", 0.1, 1, True), Dot("second one", 0.2, 1, True), Dot("far", 10, 1, True)]
    texts = {t.text: t for t in parts(scatter(near, x_title="x", y_title="y"), "text")}
    assert [texts[d.label].get("text-anchor") for d in near] == ["middle", "start", "start"]


def test_a_label_without_room_is_left_to_hovering():
    dots = [Dot(f"a long name {k}", 5, 1, True) for k in range(9)]
    svg = scatter(dots, x_title="x", y_title="y")
    assert 1 <= sum("name" in t.text for t in parts(svg, "text")) < 9
    assert sum("name" in c[0].text for c in parts(svg, "circle")) == 9
