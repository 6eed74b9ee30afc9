"""Which of many results are worth having: a table, a plot, and the one to take."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from graphprune.fidelity import Fidelity
from graphprune.report import Ratios, size_text
from graphprune.report.plot import Dot, scatter


class Point(msgspec.Struct, frozen=True):
    """One result of a sweep.

    Attributes:
        name: of its folder.
        kept: shares of the original.
        bytes: of its weights.
        fidelity: how wrong it is.
        score: what the user's evaluation says, high is good; ``None`` without one.
        latency_ms: median of one call by what ran it.
        on_front: whether no other point is both smaller and more right.
        failure: why there is no such result; the figures above are empty then.
    """

    name: str
    kept: Ratios | None = None
    bytes: int = 0
    fidelity: Fidelity | None = None
    score: float | None = None
    latency_ms: dict[str, float] = {}
    on_front: bool = False
    failure: str = ""

    @property
    def error(self) -> float:
        """Relative output error; infinite where there is no result."""
        return self.fidelity.error if self.fidelity else math.inf

    @property
    def badness(self) -> float:
        """What is low for a good point: its error, or the user's score turned round."""
        return self.error if self.score is None else -self.score

    @property
    def fastest_ms(self) -> float:
        """Its lowest latency."""
        return min(self.latency_ms.values(), default=math.inf)


class Table(msgspec.Struct, frozen=True):
    """The whole of ``pareto.json``: every point, and the one chosen."""

    model: str
    points: list[Point]
    best: str = ""
    original_ms: float | None = None
    original_score: float | None = None


def front(points: Sequence[Point]) -> list[Point]:
    """The points with those marked that none beats in MACs kept and in error (or score) at once; fewest MACs last."""
    made = sorted((p for p in points if p.kept), key=lambda p: (-_macs(p), p.badness, p.name))
    least, marked = math.inf, []
    for point in sorted(made, key=lambda p: (_macs(p), p.badness)):
        marked.append(msgspec.structs.replace(point, on_front=point.badness < least))
        least = min(least, point.badness)
    return [*marked[::-1], *(p for p in points if not p.kept)]


def choose(
    points: Sequence[Point], *, max_error: float | None, min_score: float | None, fastest: bool = False
) -> Point | None:
    """The smallest point, or the fastest, within the limits; ``None`` where none is, or none are given."""
    if max_error is None and min_score is None:
        return None
    allowed = [
        p
        for p in points
        if p.kept
        and (max_error is None or p.error <= max_error)
        and (min_score is None or (p.score is not None and p.score >= min_score))
    ]
    size: Callable[[Point], float] = (lambda p: p.fastest_ms) if fastest else (lambda p: p.bytes)
    return min(allowed, key=lambda p: (size(p), p.badness, p.name), default=None)


def _macs(point: Point) -> float:
    return point.kept.macs if point.kept else math.inf


COLUMNS = ("point", "MACs", "parameters", "weights", "error", "cosine", "score", "latency", "front")


def rows(table: Table) -> Iterator[tuple[str, ...]]:
    """The table as text, one row a point, in the order of ``COLUMNS``."""
    for p in table.points:
        if p.kept is None or p.fidelity is None:
            yield (p.name, *[""] * 7, p.failure)
            continue
        yield (
            p.name,
            f"{p.kept.macs:.1%}",
            f"{p.kept.parameters:.1%}",
            size_text(p.bytes),
            f"{p.error:.2%}",
            f"{p.fidelity.cosine:.4f}",
            "" if p.score is None else f"{p.score:g}",
            f"{p.fastest_ms:.2f} ms" if p.latency_ms else "",
            "best" if p.name == table.best else "yes" if p.on_front else "",
        )


def markdown(table: Table) -> str:
    """The table for a page or a pull request."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows(table)]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"# {table.model}\n\n{body}\n\n![error against MACs](pareto.svg)\n"


def comma_separated(table: Table) -> str:
    """Plain numbers for a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["point", "macs", "parameters", "bytes", "error", "cosine", "score", "latency_ms", "front", "failure"]
    )
    for p in table.points:
        kept, found = p.kept or Ratios(1, 1, 1), p.fidelity
        values = [kept.macs, kept.parameters, p.bytes, found.error, found.cosine] if found else [""] * 5
        score = "" if p.score is None else p.score
        writer.writerow([p.name, *values, score, p.fastest_ms if p.latency_ms else "", int(p.on_front), p.failure])
    return text.getvalue()


def drawing(table: Table) -> str:
    """Error, or the user's score, against MACs kept, as SVG."""
    scored = any(p.score is not None for p in table.points)
    dots = [
        Dot(p.name, p.kept.macs, p.score or 0.0 if scored else p.error, p.on_front)
        for p in table.points
        if p.kept and math.isfinite(p.error)
    ]
    return str(
        scatter(
            dots,
            x_title="multiply-accumulates kept",
            y_title="score" if scored else "error of the outputs",
            x_text="{:.0%}".format,
            y_text="{:g}".format if scored else "{:.0%}".format,
        )
    )
