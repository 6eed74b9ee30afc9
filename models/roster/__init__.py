"""The roster: graphs of every architecture and exporter at hand, each pruned by half and proved.

    pip install 'graphprune[roster]'
    python -m models.roster                              # all of them; rows that are there already are kept
    python -m models.roster --only 'torchvision/resnet'  # those whose name matches
    python -m models.roster --list

Each graph is made in `models/cache` (git-ignored), pruned at 50 % of the units of every group, and deleted again;
its row goes to `models/cache/roster.jsonl`, and `models/roster.md` is written anew from all rows. Weights are random
and seeded: there is no accuracy to measure here, only what can be cut and whether the law holds.

A family is one module with `ENTRIES`, named in `FAMILIES`. It imports its framework only where a graph is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

FAMILIES = ("classics", "torchvision", "transformers", "written", "frameworks")


@dataclass(frozen=True)
class Entry:
    """One graph of the roster.

    Args:
        name: what tables and `--only` call it: `torchvision/resnet18`.
        family: the row of the summary it counts in.
        made: how the graph is made, in a line.
        build: writes the ONNX file to the path it is given; must be picklable.
        sizes: what symbolic dimensions are bound to for the analysis, by name.
    """

    name: str
    family: str
    made: str
    build: Callable[[Path], None]
    sizes: Mapping[str, int] = field(default_factory=dict)


def roster() -> dict[str, Entry]:
    """Every entry by name, in the order of the families."""
    entries = [entry for family in FAMILIES for entry in import_module(f"models.roster.{family}").ENTRIES]
    named = {entry.name: entry for entry in entries}
    assert len(named) == len(entries), "two entries have one name"
    return named
