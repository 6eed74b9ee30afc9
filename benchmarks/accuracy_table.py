"""The table and the plot of `benchmarks.accuracy`, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from benchmarks.accuracy import Row

DEFAULT = "obs"
SAME_ROAD = {DEFAULT, "layer_adaptive"}  # ours, with inputs or without: no rivals of the default
NEAR = 0.03  # how far the share kept may be from the target before a cell says where it ended


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write ``accuracy.md`` and, where matplotlib is installed, ``accuracy.svg``."""
    (folder / "accuracy.md").write_text(markdown(rows), "utf-8")
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install 'graphprune[bench]'")
        return
    matplotlib.use("svg")
    _plot(rows, folder / "accuracy.svg")


def markdown(rows: Sequence[Row]) -> str:
    """A table for each model, the default first; below it, where its drop is more than half of the best rival's."""
    lines = [
        "# Accuracy of every criterion\n",
        "Top-1 in per cent at shares of the multiply-accumulates, without data, labels or training, but for the row "
        "that names a number of unlabelled inputs; the same items for all (`python -m benchmarks.accuracy`). What "
        "draws noise has the mean of three seeds, ± half of what lies between the best and the worst of them; where no "
        "± stands, nothing is drawn or one seed was run. A share in brackets is where a model ended, if not near the "
        "target; – is what could not be made.\n",
        "![accuracy against multiply-accumulates](accuracy.svg)\n",
    ]
    for model in dict.fromkeys(row.model for row in rows):
        seeds = [row for row in rows if row.model == model and row.criterion != "dense"]
        own = means(seeds)
        dense = next((row.accuracy[""] for row in rows if row.model == model and row.criterion == "dense"), 0.0)
        targets = sorted({row.target for row in own}, reverse=True)
        lines.append(f"## {model}, dense {100 * dense:.1f}\n")
        lines.append("| criterion | " + " | ".join(f"{t:.0%}" for t in targets) + " |")
        lines.append("|---" * (len(targets) + 1) + "|")
        names = sorted({row.criterion for row in own}, key=lambda c: (c != DEFAULT, not _ours(c), c))
        for name in names:
            cells = [_cell(*[r for r in seeds if (r.criterion, r.target) == (name, t)]) for t in targets]
            shown = f"**{name}**" if name == DEFAULT else name
            lines.append(f"| {shown} | " + " | ".join(cells) + " |")
        lines += ["", *_verdict(own, dense, targets), ""]
    return "\n".join(lines)


def _ours(criterion: str) -> bool:
    return criterion.split(",")[0] in SAME_ROAD


def means(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ by nothing but their seed made one: the means of what was made."""
    alike: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.model, row.criterion, row.target), []).append(row)
    return [_mean(seeds) for seeds in alike.values()]


def _mean(seeds: Sequence[Row]) -> Row:
    made = [row for row in seeds if row.accuracy]
    if not made:
        return seeds[0]
    accuracy = {part: float(np.mean([row.accuracy[part] for row in made])) for part in made[0].accuracy}
    kept, seconds = (float(np.mean([getattr(row, name) for row in made])) for name in ("kept", "seconds"))
    return msgspec.structs.replace(made[0], accuracy=accuracy, kept=kept, seconds=seconds)


def _cell(*seeds: Row) -> str:
    if not seeds:
        return ""
    row = _mean(seeds)
    if not row.accuracy:
        return "–"
    found = [seed.accuracy[""] for seed in seeds if seed.accuracy]
    luck = f" ± {50 * (max(found) - min(found)):.1f}" if len(found) > 1 else ""
    ended = "" if isclose(row.kept, row.target, abs_tol=NEAR) else f" ({row.kept:.0%})"
    parts = [f"{100 * score:.1f}" for part, score in row.accuracy.items() if part]
    return f"{100 * row.accuracy['']:.1f}{luck}{ended}" + (f" [{' / '.join(parts)}]" if parts else "")


def _verdict(rows: Sequence[Row], dense: float, targets: Iterable[float]) -> list[str]:
    """Whether the default's drop is at most half of the best rival's at every target, and where not."""
    short, compared = [], False
    for target in targets:
        there = {r.criterion: dense - r.accuracy[""] for r in rows if r.target == target and r.accuracy}
        rivals = {name: drop for name, drop in there.items() if not _ours(name)}
        if DEFAULT not in there or not rivals:
            continue
        compared = True
        best = min(rivals, key=rivals.__getitem__)
        if there[DEFAULT] > max(rivals[best] / 2, 0.0):
            short.append(f"{target:.0%}: {100 * there[DEFAULT]:.1f} against {100 * rivals[best]:.1f} of {best}")
    if not compared:
        return ["No other criterion has been measured."]
    if not short:
        return ["The default loses at most half of what the best other loses, at every target."]
    return ["Points lost, where that is more than half of what the best other loses: " + "; ".join(short) + "."]


def _plot(rows: Sequence[Row], path: Path) -> None:
    import matplotlib.pyplot as plt

    rows = means(rows)
    plt.rcParams |= {"svg.hashsalt": "graphprune", "font.size": 9}
    models = list(dict.fromkeys(row.model for row in rows))
    columns = min(3, len(models))
    lines = -(-len(models) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 3.2 * lines), squeeze=False)
    for place in axes.flat[len(models) :]:
        place.set_visible(False)
    names = sorted({row.criterion for row in rows} - {"dense"}, key=lambda c: (c != DEFAULT, c))
    colours = dict(zip(names, plt.get_cmap("tab20").colors, strict=False))
    for place, model in zip(axes.flat, models, strict=False):
        dense = next((r.accuracy[""] for r in rows if r.model == model and r.criterion == "dense"), None)
        for name in names:
            own = [r for r in rows if (r.model, r.criterion) == (model, name) and r.accuracy]
            points = [(r.kept, 100 * r.accuracy[""]) for r in own] + ([(1.0, 100 * dense)] if dense and own else [])
            wide = 2.5 if name == DEFAULT else 1
            place.plot(*zip(*sorted(points), strict=True), "o-", ms=2.5, lw=wide, color=colours.get(name), label=name)
        place.set_title(model)
        place.set_xlabel("share of MACs kept")
        place.set_ylabel("top-1, %")
        place.grid(alpha=0.3)
    handles = {}
    for place in axes.flat:
        handles |= dict(zip(*reversed(place.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=5, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
