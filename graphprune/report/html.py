"""The report as one page for people: ``report.html`` needs no network and no other file.

Its only script zooms pictures, and without it everything can still be read; the page allows no other to run.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from importlib import resources
from itertools import accumulate
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graphprune.latency import Timing
from graphprune.report import OperatorReport, PinReport, Report, picture, size_text
from graphprune.report.plot import Dot, scatter

# How many axes a page lists in all, of pins and of groups: some hundred kilobytes each.
LISTED = 2000
# How many layers it shows: of a model with more, those that do most of the work.
BARS = 500
# How many operators it draws in all, in the overview and in the pictures of groups: the same again.
MARKS = 2000

_NBSP = "\N{NO-BREAK SPACE}"

LEFT_OUT = "is left out by --include or --exclude"
# What would free an axis, or why nothing would, by a phrase of the reason.
ADVICE = {
    "graph input": "Nothing: it is the interface of the model, or tied to it, which never changes.",
    "graph output": "Nothing: it is the interface of the model, or tied to it, which never changes.",
    LEFT_OUT: "Other expressions; it was asked for.",
    "a single unit": "Nothing: the axis would end up empty.",
    "no rule for operator": "A rule in graphprune/rules/ that says which positions of the operator go together.",
    "its size follows a symbolic dimension": "An export with a fixed size; --dim-param only sets one to analyse at.",
    "is unknown before run time": "An export with static shapes up to this node; its rule can then be asked.",
    "do not fit together": "A valid graph: the node has shapes that its operator does not take.",
    "stored as a sparse tensor": "Storing it dense.",
    "which is not cut": "Common floats, whole numbers or Booleans of at least 8 bits in its place.",
    "depends on every position of this axis": "Nothing, where positions are no channels: the taps of a kernel, the "
    "pixels of an image, the tokens of a sequence. Elsewhere a rule that knows how to leave one out.",
    "joins it with an axis that goes instead": "Nothing while the other goes: a merged axis shrinks along one of those "
    "it is made of, and the choice that frees more of the model was taken.",
    "makes these positions itself": "Nothing: they come from no input that could shrink.",
    "summed over, and not zero": "A form that is zero where its weights are: a sum misses no zeros, but a Sigmoid or "
    "an Exp of nothing is something.",
    "normalised over": "Nothing exact: mean and spread are taken over all of these positions, so removing one changes "
    "the rest. --inexact cuts them where that is of use, and measures.",
    "normalised by its neighbouring": "Nothing exact: each channel is divided by what its neighbours hold.",
    "reduced over": "Nothing: these positions become one value, as the pixels of a pooled image.",
    "numbered by the pool's index output": "A pool without its second output, whose numbers would change.",
    "sliced by bounds computed at run time": "Constant bounds; an export with fixed input sizes often has them.",
    "reshaped to a shape computed at run time": "A constant shape; an export with fixed input sizes often has one.",
    "sliced with step": "A slice with step 1.",
    "padded by other than constants": "Constant padding that crops nothing.",
}
OTHERWISE = "Another form of this node, or a rule in graphprune/rules/ that says more of its operator."


@dataclass(frozen=True)
class Reason:
    """Pinned axes that share a reason: what would free them, and as many of them as fit on the page."""

    text: str
    advice: str
    axes: int
    listed: Sequence[PinReport]


@dataclass(frozen=True)
class Proof:
    """Something compared: the largest error, and the largest allowed."""

    what: str
    error: float
    tolerance: float | None


@dataclass(frozen=True)
class Figure:
    """One figure at a glance."""

    what: str
    value: str
    detail: str


def render(report: Report) -> str:
    """The page; equal reports give equal text."""
    script = resources.files("graphprune.report").joinpath("report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = accumulate(len(g.members) for g in report.groups)
    layers = list(enumerate((o for o in report.operators if o.before and o.before.macs), 1))
    shown = sorted(nlargest(BARS, layers, key=_work), key=lambda layer: layer[0])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            lead=_lead(report),
            glance=list(_glance(report)),
            proofs=list(_proofs(report)),
            reasons=_reasons(report.pinned),
            axes_per_group=_room(len(report.groups)),
            decimals=_decimals(report.latency),
            layers=len(layers),
            shown=shown,
            charts=_charts(shown),
            listed=LISTED,
            overview=picture.overview(report.groups, MARKS),
            drawings=[
                picture.layers(g) if g.members and total <= MARKS else None
                for g, total in zip(report.groups, drawn, strict=True)
            ],
            **_curve(report),
            measured=_measured(report),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
        )
    )


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("graphprune.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"power": _power, "share": _share, "size": size_text, "percent": _percent, "tail": _tail}
    return made


def _lead(report: Report) -> str:
    """What was done, in a sentence."""
    if not report.steps:
        units = sum(g.units for g in report.groups)
        return f"{units:,} units in {len(report.groups):,} groups can be pruned. Nothing was changed."
    kept = report.kept
    figures = f"{_share(kept.macs)} of the multiply-accumulates and {_share(kept.parameters)} of the parameters"
    errors = [e for s in report.steps if s.law for e in (s.error, s.layers_error) if e is not None]
    if not errors:
        return f"Nothing was removed; rewriting kept {figures}."
    error = f"to {_power(max(errors))} of a tensor’s largest value" if any(errors) else "exactly"
    proved = all(s.tolerance is not None for s in report.steps if s.law)
    equals = "the cut equals zeroing" if proved else "the cut is not exact and agrees with zeroing"
    return f"Pruned to {figures}; {equals} {error}."


def _glance(report: Report) -> Iterator[Figure]:
    """How much smaller, how much faster, how wrong, and what was left alone."""
    before, after = report.before, report.after
    if report.steps:
        yield Figure(
            "Size kept",
            _share(after.bytes / max(before.bytes, 1)),
            f"{size_text(before.bytes)} → {size_text(after.bytes)} of weights",
        )
        yield Figure("Work kept", _share(report.kept.macs), f"{_million(before.macs)} → {_million(after.macs)} MACs")
    else:
        yield Figure("Size", size_text(after.bytes), f"{after.parameters:,} parameters")
        yield Figure("Work", _million(after.macs), "multiply-accumulates (MACs)")
    baseline, *others = report.latency.items() or [None]
    if baseline is not None and others:
        name, best = min(others, key=lambda item: item[1].ratio)
        d = _decimals(report.latency)
        times = f"{baseline[1].median_ms:.{d}f} → {best.median_ms:.{d}f} ms"
        faster = best.ratio < 1
        yield Figure(
            "Faster" if faster else "Slower",
            f"×{1 / best.ratio if faster else best.ratio:.2f}",
            f"{times}: {name} against {baseline[0]}",
        )
    elif report.steps:
        yield Figure("Latency", "–", "not measured; graphprune bench times files, graphprune compile what it builds")
    if report.fidelity is not None:
        source = f"{report.fidelity.inputs} {report.fidelity.source}"
        yield Figure("Output error", _share(report.fidelity.error), f"of the original’s outputs, over {source}")
    reasons = len(_reasons(report.pinned))
    yield Figure("Left alone", f"{len(report.pinned):,}", f"axes, for {reasons} reason{'s' * (reasons != 1)}")


def _proofs(report: Report) -> Iterator[Proof]:
    laws = [s for s in report.steps if s.law]
    if report.law_error is not None:
        yield Proof(
            "cut against zeroing, at the outputs",
            report.law_error,
            max((s.tolerance for s in laws if s.tolerance is not None), default=None),
        )
    inner = [(s.layers_error, s.layers_tolerance) for s in laws if s.layers_error is not None]
    if inner:
        yield Proof("the same, at the worst inner tensor", *max(inner))
    bounds = [s.tolerance for s in report.steps if not s.law and s.tolerance is not None]
    if bounds:
        yield Proof("all other rewriting passes, at the outputs", report.rewrite_error, max(bounds))
    for target in report.targets:
        if target.error is not None:
            yield Proof(f"{target.name} library against onnxruntime", target.error, target.tolerance)


def _reasons(pinned: Iterable[PinReport]) -> list[Reason]:
    """The pins by reason, most frequent first; whatever was left out on request counts as one reason."""
    found: dict[str, list[PinReport]] = {}
    for pin in pinned:
        found.setdefault(f"group {LEFT_OUT}" if pin.reason.endswith(LEFT_OUT) else pin.reason, []).append(pin)
    room = _room(len(found))
    return [
        Reason(text, next((a for phrase, a in ADVICE.items() if phrase in text), OTHERWISE), len(pins), pins[:room])
        for text, pins in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _work(layer: tuple[int, OperatorReport]) -> int:
    return layer[1].before.macs if layer[1].before else 0


def _charts(layers: Sequence[tuple[int, OperatorReport]]) -> list[tuple[str, list[tuple[int, str, int, int]], int]]:
    """For channels and for work: its name, (number, title, before, after) of the layers that have any, and the most."""
    charts = []
    for what, field in (("Channels", "channels"), ("MACs", "macs")):
        bars = []
        for number, layer in layers:
            before, after = getattr(layer.before, field), getattr(layer.after, field)
            if before is not None:
                title = f"{number}. {layer.node}: {before:,} → {after:,} {what if field == 'macs' else field}"
                bars.append((number, title, before, after))
        if bars:
            charts.append((what, bars, max(b[2] for b in bars)))
    return charts


def _curve(report: Report) -> dict[str, Any]:
    """The plot of predicted errors, or why there is none."""
    found: dict[str, Any] = {"tradeoff": None, "tradeoff_of": "", "left_out": 0, "no_tradeoff": ""}
    tradeoff = report.tradeoff
    if tradeoff is None:
        if report.law_error is not None:
            found["no_tradeoff"] = (
                "No curve of predicted errors: the pass that chose here predicts none; allocate, which meets targets "
                "in the preset obs, does."
            )
        return found
    # Beyond, the curve would flatten what matters; an error of 1 is as much as a whole layer's signal.
    most = 4 * tradeoff.chosen.error or (math.inf if report.steps else 1.0)
    shown = [p for p in tradeoff.points if p.error <= most]
    of = {"macs": "MACs", "parameters": "parameters"}[tradeoff.of]
    taken = "taken" if report.steps else "as it is"
    points = [*shown, *([tradeoff.chosen] if tradeoff.chosen not in shown else [])]
    found["tradeoff"] = scatter(
        [
            Dot(taken if p == tradeoff.chosen else "", getattr(p, tradeoff.of), p.error, p == tradeoff.chosen)
            for p in points
        ],
        x_title=f"{of} kept",
        y_title="predicted error",
        x_text=_whole,
        y_text="{:.3g}".format,
        joined=True,
    )
    found["tradeoff_of"] = of
    found["left_out"] = len(tradeoff.points) - len(shown)
    return found


def _measured(report: Report) -> Markup | None:
    """The plot of what was timed and compared."""
    if report.fidelity is None or not math.isfinite(report.fidelity.error) or len(report.latency) < 2:
        return None
    dots = [
        Dot(name.removesuffix(", timed alone"), timing.median_ms, report.fidelity.error if k else 0.0, True)
        for k, (name, timing) in enumerate(report.latency.items())
    ]
    return scatter(
        dots,
        x_title="median latency, ms",
        y_title="output error",
        x_text="{:.3g}".format,
        y_text=lambda v: f"{v:.3g}" if v > 10 else f"{100 * v:.3g}%",
    )


def _room(lists: int) -> int:
    """How many axes each of so many lists may show."""
    return max(LISTED // max(lists, 1), 4)


# --------------------------------------------------------------------------------------------------------- figures


def _power(value: float) -> str:
    """``9.9 × 10⁻⁸``, in signs that every font has."""
    if not value:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    ten = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return ten if mantissa == "1.0" else f"{mantissa}{_NBSP}×{_NBSP}{ten}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _whole(value: float) -> str:
    return f"{100 * value:.3g}%"


def _million(value: int) -> str:
    """A count in three figures: ``31.0 M``."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.{2 - min(int(math.log10(value / size)), 2)}f}{_NBSP}{unit}"
    return str(value)


def _tail(text: str, length: int) -> str:
    """The end of a long name, which tells it from its neighbours."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _percent(value: float, whole: float) -> str:
    """A length in a drawing, as a part of its width or height."""
    return f"{100 * min(value / whole, 1) if whole else 0:.2f}%"


def _decimals(latency: Mapping[str, Timing]) -> int:
    """How many decimals milliseconds need for three figures of the slowest."""
    slowest = max((t.median_ms for t in latency.values()), default=0)
    return 3 if slowest < 1 else 2 if slowest < 10 else 1
