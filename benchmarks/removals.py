"""The law on every layer and every expert of transformers: `python -m benchmarks.removals [--only REGEX]`.

Of every graph of the roster, and of the transformers of the zoo that are built, each residual branch that is found is
removed by itself, and a seeded half of them together: what is left must equal the original with what those branches
send on multiplied by zero. Of every mixture each expert goes by itself, and as many together as may: what is left must
equal the original with their logits at minus infinity. *noticed* says how many of these removals change the outputs at
all; a removal that nobody notices would prove nothing.

Rows are kept in `build/removals.json` as they are made: run again, it makes only what is missing or went wrong, and
`--again` makes everything anew. Roster graphs are small, with random weights; see `models.roster`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import results
from graphprune.branches import branches
from graphprune.groups import Group
from graphprune.model import Model, load
from graphprune.pipeline import BEFORE, parse, run
from graphprune.proof import Runner, compare, seeded_inputs
from graphprune.state import State
from models import find
from models.roster import roster
from models.roster.measure import delete, make, told
from models.zoo import CACHE

KEPT = Path(__file__).parents[1] / "build" / "removals.json"
# Transformers of the zoo, and the sizes of inputs that cannot be told from the file.
ZOO: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "fashion_moe": {},
    "fashion_vit": {},
    "minilm": {},
    "minilm_traced": {},
    "ppocr_rec": {"x": (1, 3, 48, 320)},
    "smollm2": {},
    "smollm2_past": {},
}


class Law(msgspec.Struct, frozen=True):
    """Removals of one kind from one graph.

    Attributes:
        found: layers, or experts.
        removals: how many removals were tried; all of them held, or the row has a ``fault``.
        noticed: after how many of them the outputs are others than before.
        error: the largest difference at the outputs, relative to the largest value of an output.
    """

    found: int
    removals: int
    noticed: int
    error: float


class Row(msgspec.Struct, frozen=True):
    """What came of one graph; ``fault`` is what went wrong, if anything did."""

    name: str
    layers: Law | None = None
    experts: Law | None = None
    fault: str = ""

    @property
    def key(self) -> tuple[str, str, float]:
        """What no two rows share."""
        return self.name, "", 0.0


def main(
    only: Annotated[str, typer.Option(help="Regular expression of the names to try.")] = "transformer|^zoo/",
    again: Annotated[bool, typer.Option(help="Make also what there is.")] = False,
    keep: Annotated[bool, typer.Option(help="Leave the graphs of the roster in models/cache/roster.")] = False,
) -> None:
    """Make what is missing, and print the table."""
    rows = {row.name: row for row in results.read(KEPT, Row)}
    (CACHE / "roster").mkdir(parents=True, exist_ok=True)
    names = [f"zoo/{name}" for name in ZOO if find(name).path.exists()]
    names = [name for name in [*names, *roster()] if re.search(only, name)]
    for name in names:
        if again or name not in rows or rows[name].fault:
            rows[name] = measured(name, keep)
            KEPT.parent.mkdir(exist_ok=True)
            results.add(KEPT, rows[name])
    chosen = [rows[name] for name in names]
    output = Table("graph", *_columns("layers"), *_columns("experts"), "fault", box=SIMPLE_HEAD)
    for row in chosen:
        output.add_row(row.name, *_cells([row.layers]), *_cells([row.experts]), row.fault)
    whole = [*_cells([row.layers for row in chosen]), *_cells([row.experts for row in chosen])]
    output.add_row(f"{len(chosen)} graphs", *whole, str(sum(bool(row.fault) for row in chosen)), style="bold")
    Console(width=150).print(output)
    if any(row.fault for row in chosen):
        raise typer.Exit(1)


def measured(name: str, keep: bool) -> Row:
    """Make the graph of this name and remove from it."""
    try:
        if name.startswith("zoo/"):
            known = name.removeprefix("zoo/")
            return tried(name, load(find(known).path, input_shapes=ZOO[known]))
        entry = roster()[name]
        path = make(entry, CACHE / "roster")
        row = tried(name, load(path, dim_params=entry.sizes))
        if not keep:
            delete(path)
        return row
    except Exception as error:
        return Row(name, fault=told(error))


def tried(name: str, model: Model) -> Row:
    """All removals from one model; raises what the first that fails raises."""
    state, _ = run(State(model), parse(BEFORE))
    rng = np.random.default_rng(0)
    found = branches(state.model)
    alone = [branch.sum for branch in found if not branch.inner]
    half = tuple(alone[k] for k in sorted(rng.permutation(len(alone))[: len(alone) // 2]))
    together = [half] if len(half) > 1 else []
    layers = [replace(state, layers=names) for names in [*((branch.sum,) for branch in found), *together]]
    experts = [replace(state, drop={g.name: units}) for g in state.experts for units in _drawn(g, rng)]
    return Row(
        name,
        _law(len(found), layers, "remove_layers"),
        _law(sum(group.size for group in state.experts), experts, "cut"),
    )


def _drawn(group: Group, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Each expert by itself, and as many as may go together."""
    most = group.size - group.least
    for unit in range(group.size if most else 0):
        yield np.array([unit])
    if most > 1:
        yield np.sort(rng.permutation(group.size)[:most])


def _law(found: int, states: Sequence[State], removal: str) -> Law | None:
    """The law of every state with something to remove, from one and the same model."""
    if not states:
        return None
    errors, noticed = [], 0
    inputs = seeded_inputs(states[0].model)
    before = Runner(states[0].model)(inputs)
    for state in states:
        after, records = run(state, parse(removal))
        agreement = records[0].agreement
        assert agreement is not None
        errors.append(agreement.error)
        noticed += compare(Runner(after.model)(inputs), before, agreement.rtol).error > agreement.rtol
    return Law(found, len(states), noticed, max(errors))


def _columns(what: str) -> list[str]:
    return [what, "removals", "noticed", "largest error"]


def _cells(laws: Sequence[Law | None]) -> list[str]:
    """The cells of some laws taken together."""
    known = [law for law in laws if law is not None]
    if not known:
        return [""] * 4
    counts = [sum(law.found for law in known), sum(law.removals for law in known), sum(law.noticed for law in known)]
    return [*map(str, counts), f"{max(law.error for law in known):.1e}"]


if __name__ == "__main__":
    typer.run(main)
