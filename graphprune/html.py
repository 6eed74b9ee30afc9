"""The report as one page for people: ``report.html`` needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from graphprune.latency import Timing
from graphprune.report import PinReport, Report, size_text

# How many axes a page lists in all, of pins and of groups: some hundred kilobytes each.
LISTED = 2000

_NBSP = "\N{NO-BREAK SPACE}"

LEFT_OUT = "is left out by --include or --exclude"
# What would free an axis, or why nothing would, by a phrase of the reason; silent where there is nothing sure to say.
ADVICE = {
    "graph input": "The interface of the model, or tied to it; it never changes.",
    "graph output": "The interface of the model, or tied to it; it never changes.",
    LEFT_OUT: "As asked; other expressions would let them be pruned.",
    "no rule for operator": "A rule for it in graphprune/rules/ would say which of its positions go together.",
    "its size follows a symbolic dimension": "The file leaves this size open. An export with a fixed size lifts this "
    "reason; --dim-param only sets the size to analyse at.",
    "is unknown before run time": "An export with static shapes up to this node would let its rule be asked.",
    "stored as a sparse tensor": "Stored dense it would be cut like any other.",
    "which is not cut": "Only common floats, whole numbers and Booleans of at least 8 bits are cut.",
    "depends on every position of this axis": "Its rule knows no way to take one position and leave the rest as it "
    "was; the taps of a kernel and the pixels of an image are of this kind.",
    "joins it with an axis that goes instead": "A merged axis shrinks along one of the axes it is made of; the choice "
    "that frees more of the model was taken.",
    "makes these positions itself": "They come from no input that could shrink.",
    "summed over in a product of two computed": "An axis summed over may shrink where one factor is a weight.",
    "numbered by the pool's index output": "Without the pool's second output its channels would be followed.",
    "reshaped to a shape computed at run time": "A constant target shape would be followed; an export with fixed input "
    "sizes often has one.",
    "sliced with step": "A slice with step 1 would be followed.",
    "padded by other than constants": "Constant padding that crops nothing would be followed.",
}


@dataclass(frozen=True)
class Reason:
    """Pinned axes that share a reason: what would free them, and as many of them as fit on the page."""

    text: str
    advice: str
    axes: int
    listed: Sequence[PinReport]


@dataclass(frozen=True)
class Proof:
    """Something compared: the largest error, and the largest allowed, ``None`` where it is only measured."""

    what: str
    error: float
    tolerance: float | None


def render(report: Report) -> str:
    """The page; equal reports give equal text."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            lead=_lead(report),
            proofs=list(_proofs(report)),
            reasons=_reasons(report.pinned),
            axes_per_group=_room(len(report.groups)),
            decimals=_decimals(report.latency),
        )
    )


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("graphprune", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"power": _power, "share": _share, "size": size_text, "percent": _percent}
    return made


def _lead(report: Report) -> str:
    """What was done, in a sentence."""
    kept = report.kept
    weights = report.after.bytes / max(report.before.bytes, 1)
    figures = (
        f"{_share(kept.macs)} of the multiply-accumulates, {_share(kept.parameters)} of the parameters "
        f"and {_share(weights)} of the size"
    )
    errors = [e for s in report.steps if s.law for e in (s.error, s.layers_error) if e is not None]
    if not errors:
        parts = [f"Nothing was removed; rewriting kept {figures}"]
    else:
        error = f"to {_power(max(errors))} of a tensor’s largest value" if any(errors) else "exactly"
        parts = [f"Pruned to {figures}", f"the cut equals zeroing {error}"]
    if len(report.latency) > 1:
        baseline, *others = report.latency
        ratios = _and(f"×{report.latency[name].ratio:.2f} ({name})" for name in others)
        parts.append(f"latency is {ratios} that of {baseline}")
    return "; ".join(parts) + "."


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
    for step in report.steps:
        if not step.law and step.error is not None and step.tolerance is None:
            yield Proof(f"{step.step}, which changes outputs on purpose", step.error, None)
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
        Reason(text, next((a for phrase, a in ADVICE.items() if phrase in text), ""), len(pins), pins[:room])
        for text, pins in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


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


def _percent(value: float, whole: float) -> str:
    """A length in a drawing, as a part of its width or height."""
    return f"{100 * min(value / whole, 1) if whole else 0:.2f}%"


def _decimals(latency: Mapping[str, Timing]) -> int:
    """How many decimals milliseconds need for three figures of the slowest."""
    slowest = max((t.median_ms for t in latency.values()), default=0)
    return 3 if slowest < 1 else 2 if slowest < 10 else 1


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
