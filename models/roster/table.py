"""What the rows of the roster look like to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from models.roster.measure import Row

# Node counts at which the time of the analysis is summed up.
SIZES = (100, 300, 1000, 3000, 10000)


def line(row: Row) -> str:
    """One row for the terminal."""
    if row.outcome != "pruned":
        return f"{row.name}: {row.outcome}: {row.detail}"
    return (
        f"{row.name}: {_share(row.parameters_removed)} of {_millions(row.parameters)} parameters removed, "
        f"{prunable(row)} of the units prunable, error {row.error:.1e}, {row.seconds:.1f} s"
    )


def markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The whole document: outcomes, families, speed, every graph, and those that have not been run.

    Args:
        rows: in the order to show.
        names: of all entries of the roster.
    """
    missing = [name for name in names if name not in {row.name for row in rows}]
    parts = [
        "# The roster",
        "",
        "Written by `python -m models.roster`: every graph is pruned at 50 % of the units of each group (preset",
        "`magnitude`, widths of any size), and the law is proved on it: what is cut equals the original with the units",
        "zeroed. Weights are random and seeded. Rows are kept from run to run; *state* is the commit that a row was",
        "measured on, and `--again` measures all of them anew.",
        "",
        "*Prunable* is the share of units that are in a group, of all positions of axes along which a constant weight",
        "makes channels (of a convolution that is not depthwise, a matrix product, a recurrent layer), less the axes",
        "that the caller sees. *Error* is the largest difference between cut and zeroed outputs, relative to the",
        "largest value. *Analysis* is processor time for folding shapes and finding all groups.",
        "",
        f"{len(rows)} of {len(names)} graphs: {_counts(row.outcome for row in rows)}.",
        f"States: {_counts(row.state or 'unknown' for row in rows)}.",
        "",
        "## Families",
        "",
        *_table(
            ("family", "graphs", "pruned", "prunable", "parameters removed", "largest error", "still held, and why"),
            [
                _family(name, [row for row in rows if row.family == name])
                for name in dict.fromkeys(r.family for r in rows)
            ],
        ),
        "",
        "Shares are means over the graphs of a family.",
        "",
        "## Speed",
        "",
        *_table(("nodes", "graphs", "median analysis, s", "slowest, s"), _speed(rows)),
        "",
        "## Graphs",
        "",
        *_table(
            (
                "graph",
                "parameters",
                "nodes",
                "parameters removed",
                "MACs removed",
                "prunable",
                "error",
                "analysis, s",
                "in all, s",
                "state",
                "held, and why",
            ),
            [_graph(row) for row in rows],
        ),
        "",
        "## How they are made",
        "",
        *_table(("graph", "from"), [(row.name, row.made) for row in rows]),
        "",
    ]
    if missing:
        parts += ["## Not run", "", ", ".join(missing), ""]
    return "\n".join(parts)


def prunable(row: Row) -> str:
    """Share of units in a group."""
    return _share(row.prunable / row.units) if row.units else "–"


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).items())


def _family(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    pruned = [row for row in rows if row.outcome == "pruned"]
    counted = [row for row in rows if row.units]
    held: dict[str, int] = {}
    for row in rows:
        for reason, units in row.held.items():
            held[reason] = held.get(reason, 0) + units
    return (
        name,
        str(len(rows)),
        str(len(pruned)),
        _share(fmean(row.prunable / row.units for row in counted)) if counted else "–",
        _share(fmean(row.parameters_removed for row in pruned)) if pruned else "–",
        f"{max(row.error or 0.0 for row in pruned):.0e}" if pruned else "–",
        _reasons(held, sum(row.units for row in rows)),
    )


def _graph(row: Row) -> tuple[str, ...]:
    size = (row.name, _millions(row.parameters), str(row.nodes))
    reasons = _reasons(row.held, row.units)
    if row.outcome != "pruned":
        return (
            *size,
            f"**{row.outcome}**",
            "",
            prunable(row),
            "",
            "",
            "",
            row.state,
            f"{row.detail} {reasons}".replace("|", "\\|"),
        )
    return (
        *size,
        _share(row.parameters_removed),
        _share(row.macs_removed),
        prunable(row),
        f"{row.error:.0e}",
        f"{row.analysis_seconds:.2f}",
        f"{row.seconds:.1f}",
        row.state,
        "; ".join(text for text in (row.detail, reasons) if text),
    )


def _speed(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    bands = []
    for low, high in zip((0, *SIZES), (*SIZES, None), strict=True):
        seconds = [r.analysis_seconds for r in rows if r.units and r.nodes >= low and (high is None or r.nodes < high)]
        if seconds:
            name = f"from {low:,}" if high is None else f"below {high:,}"
            bands.append((name, str(len(seconds)), f"{median(seconds):.2f}", f"{max(seconds):.2f}"))
    return bands


def _reasons(held: dict[str, int], units: int) -> str:
    """The three reasons that hold most, each with its share of all units."""
    most = sorted(held.items(), key=lambda item: -item[1])[:3]
    return "; ".join(f"{reason} ({_share(count / units)})" for reason, count in most).replace("|", "\\|")


def _table(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *body)]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value < 0.995 or value >= 1 else f"{100 * value:.1f} %"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
