"""What the terminal shows: tables that fit 80 columns, made from the same report the JSON holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table as RichTable

from graphprune.cli.doctor import Diagnosis
from graphprune.errors import visible
from graphprune.execute import TargetInfo
from graphprune.latency import Timing
from graphprune.report import KernelReport, Report, size_text
from graphprune.report.pareto import COLUMNS, Table, rows

LEAST = 0.005  # share of the time from which a kernel is shown


def summary(report: Report, latency: Mapping[str, Timing]) -> RichTable:
    """Before, after and the share kept; the proofs; the latencies."""
    table = _table("", "before", "after", "kept")
    before, after = report.before, report.after
    table.add_row("channels", f"{before.channels:,}", f"{after.channels:,}", _share(report.kept.channels))
    if report.layers:
        left = sum(not layer.removed for layer in report.layers)
        table.add_row("layers", str(len(report.layers)), str(left), _share(left / len(report.layers)))
    table.add_row("parameters", f"{before.parameters:,}", f"{after.parameters:,}", _share(report.kept.parameters))
    table.add_row("MACs", f"{before.macs:,}", f"{after.macs:,}", _share(report.kept.macs))
    table.add_row(
        "weights", size_text(before.bytes), size_text(after.bytes), _share(after.bytes / max(before.bytes, 1))
    )
    if report.sparsity:
        table.add_row("MACs that meet a zero", "", f"{report.sparsity:.1%}")
    table.add_section()
    if (whole := report.fidelity) is not None:
        label = f"error on {whole.inputs} {whole.source}"
        table.add_row(label, "", f"{whole.error:.2%}", f"cosine {whole.cosine:.4f}")
    # Of several removals the one that is furthest off is shown.
    if law := max((s for s in report.steps if s.law), key=lambda s: s.error or 0.0, default=None):
        table.add_row("error, cut against zeroed", "", f"{law.error:.1e}", _bound(law.tolerance))
        table.add_row("the same, worst inner tensor", "", f"{law.layers_error:.1e}", _bound(law.layers_tolerance))
    for target in report.targets:
        if target.error is None:
            table.add_row(f"error, {target.name}: {target.by}")
        else:
            label = f"error, {target.name} against onnxruntime"
            table.add_row(label, "", f"{target.error:.1e}", f"≤ {target.tolerance:.0e}")
    if latency:
        table.add_section()
        baseline = next(iter(latency.values()))
        for name, timing in list(latency.items())[1:]:
            table.add_row(
                f"latency, {name}", f"{baseline.median_ms:.2f} ms", f"{timing.median_ms:.2f} ms", _share(timing.ratio)
            )
    return table


def latencies(timings: Mapping[str, Timing]) -> list[RichTable | str]:
    """Medians, quartiles and ratios of a bench run."""
    table = _table("", "median", "quartiles", "of the first")
    for name, t in timings.items():
        table.add_row(visible(name), f"{t.median_ms:.3f} ms", f"{t.low_ms:.3f} – {t.high_ms:.3f} ms", f"×{t.ratio:.2f}")
    runs = next(iter(timings.values())).runs
    return [table, f"{runs} rounds in turn; ratios are to the first with as many threads"]


def layers(name: str, calls: Sequence[KernelReport], peak: float | None) -> list[RichTable | str]:
    """The kernels of a compiled model that take time: how fast they are, which were chosen and why."""
    table = _table("layer", "kernel, and why", "µs", "GFLOP/s", "of peak")
    table.columns[1].justify, table.columns[1].overflow = "left", "fold"
    whole = sum(call.seconds or 0.0 for call in calls) or 1.0
    small = [call for call in calls if (call.seconds or 0.0) < whole * LEAST]
    for call in calls:
        if call in small:
            continue
        how = call.how or ("TVM's fallback" if call.kind == "fallback" else "")
        words = "; ".join(filter(None, [f"{call.name} {how}".strip(), call.why]))
        speed = [f"{call.gflops:.1f}", _share(call.gflops / peak) if peak else ""] if call.gflops else ["", ""]
        table.add_row(visible(call.nodes[0] if call.nodes else ""), words, f"{1e6 * (call.seconds or 0):.1f}", *speed)
    rest = f"; {len(small)} kernels below {LEAST:.1%} of the whole are left out" if small else ""
    top = f"; the peak of one thread is {peak:.0f} GFLOP/s" if peak else ""
    return [table, f"{visible(name)}, one thread: {1e3 * whole:.3f} ms in kernels{top}{rest}"]


def points(found: Table) -> list[RichTable | str]:
    """The points of a sweep; those that could not be made below."""
    given = [row for row in rows(found) if row[1]]
    wanted = [k for k, name in enumerate(COLUMNS) if name not in ("parameters", "cosine") and any(r[k] for r in given)]
    table = _table(*(COLUMNS[k] for k in wanted))
    for row in given:
        table.add_row(*(visible(row[k]) for k in wanted))
    return [table, *(f"not made: {p.name}: {visible(p.failure)}" for p in found.points if p.failure)]


def diagnosis(found: Diagnosis) -> list[RichTable | str]:
    """What an installation has, and what to install where something is missing."""
    table = _table("", "", "found")
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    for check in found.checks:
        mark = "ok" if check.ok else "missing" if check.needed else "optional"
        table.add_row(mark, visible(check.what), visible(check.found))
    lacking = [check for check in found.checks if not check.ok and check.install]
    lacks = [f"{'needed' if c.needed else 'optional'}, {c.what}: {c.install}" for c in lacking]
    machine = f"{found.platform}, {found.cores} cores, {size_text(found.memory)} of memory available"
    return [table, machine, *lacks]


def targets(found: Sequence[TargetInfo]) -> RichTable:
    """What can be compiled for, what is missing for that, and what runs the result here."""
    table = _table("target", "triple", "to compile", "to run here")
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    for t in found:
        table.add_row(t.name, t.triple, _needs(t.missing) or "ready", _needs(t.runner_missing) or t.runner)
    return table


def _bound(tolerance: float | None) -> str:
    return "measured" if tolerance is None else f"≤ {tolerance:.0e}"


def groups(report: Report) -> RichTable:
    """Every group with its units and how many axes move together."""
    table = _table("group", "units", "coupled axes")
    for group in report.groups:
        name = visible(group.name) + " (experts)" * group.experts + " (inexact)" * group.inexact
        table.add_row(name, f"{group.units:,}", str(len(group.axes)))
    return table


def sensitivity(report: Report) -> list[RichTable]:
    """The error predicted for each group at some widths, and for the whole model at some shares of its MACs."""
    shares = (0.75, 0.5, 0.25)
    table = _table("group", "units", *(f"error at {share:.0%}" for share in shares))
    for group in report.groups:
        at = [next((e for n, e in group.curve if n >= share * group.units), 0.0) for share in shares]
        if group.curve:
            table.add_row(visible(group.name), f"{group.units:,}", *(f"{error:.2g}" for error in at))
    whole = _table("MACs kept", "predicted error")
    points = report.tradeoff.points if report.tradeoff else []
    near = (next((p for p in reversed(points) if p.macs <= s), None) for s in (0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.25))
    for macs, error in dict.fromkeys((p.macs, p.error) for p in near if p is not None):
        whole.add_row(f"{macs:.0%}", f"{error:.2g}")
    return [table, whole]


def pins(report: Report) -> RichTable:
    """The reasons for pinned axes, most frequent first, with an example each; the report lists every axis."""
    table = _table("pinned because", "axes", "for example")
    found: Counter[str] = Counter()
    example: dict[str, str] = defaultdict(str)
    for pin in report.pinned:
        found[pin.reason] += 1
        example[pin.reason] = example[pin.reason] or f"{pin.tensor}[{pin.axis}]"
    for reason, count in found.most_common():
        table.add_row(visible(reason), str(count), visible(example[reason]))
    table.columns[2].justify = "left"
    return table


def totals(report: Report) -> str:
    """What there is in all, and at which input sizes."""
    cost = report.before
    at = ", ".join(f"{visible(name)} {'×'.join(map(str, shape))}" for name, shape in report.input_shapes.items())
    figures = f"{cost.channels:,} units; {cost.parameters:,} parameters, {cost.macs:,} MACs"
    return f"{len(report.groups)} groups, {figures}" + (f" at {at}" if at else "")


def _table(*columns: str) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k else "left", overflow="fold" if k == 0 else "ellipsis")
    return table


def _needs(missing: Sequence[str]) -> str:
    return f"needs {' and '.join(missing)}" if missing else ""


def _share(value: float) -> str:
    return f"{value:.1%}"
