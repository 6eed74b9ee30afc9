"""Two plans made into one: of the same model, or one on top of what the other left."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import msgspec
import numpy as np

from graphprune.cut import gone
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.pipeline import parse
from graphprune.plan import Plan, Removal, as_drop, check, layers_of, mixes, removals_of
from graphprune.plan.origins import traced
from graphprune.rules import Dim
from graphprune.state import State


def merge(first: Plan, second: Plan, original: Model | None = None) -> Plan:
    """One plan that removes what two plans remove.

    Where the sizes say that both are of the same model, the merged plan removes the union. Where they say that
    ``second`` was made for what ``first`` left, its positions are counted back to the original's; a pruned file may
    call its weights otherwise or hold others, so that needs the original. The passes of both are run, those of both
    once, in an order that both have.

    Args:
        first: of the original.
        second: of the original too, or of the model pruned by ``first``.
        original: the model as loaded; where it is given, the merged plan is checked and completed on it.

    Raises:
        UsageError: the plans contradict each other or the original; names the tensor or the pass.
    """
    stacked = _stacked(first, second)
    if stacked and original is None:
        raise UsageError(
            f"'{second.model}' was pruned before the second plan was made: its positions have to be counted back",
            "name the original with --model ORIGINAL.onnx",
        )
    if {**first.input_shapes, **second.input_shapes} != {**second.input_shapes, **first.input_shapes}:
        raise UsageError("the plans were made at different input sizes", "make input_shapes the same in both")
    if first.removals and second.removals and mixes(first) != mixes(second):
        raise UsageError(
            f"only one plan has '{(mixes(first) or mixes(second))[0]}', after which channels are others",
            "prune with both in one run",
        )
    before, after = _interleave(first.before, second.before), _interleave(first.after, second.after)
    shapes = {**second.input_shapes, **first.input_shapes}
    removals = _on(original, first, second, stacked) if original else _union(first.removals, second.removals)
    layers = list(dict.fromkeys([*first.layers, *second.layers]))
    return Plan(first.version, first.model, shapes, before, removals, after, first.inexact or second.inexact, layers)


def _stacked(first: Plan, second: Plan) -> bool:
    """Whether the second plan's sizes are those that the first one leaves; they are one model's, otherwise."""
    rows = {removal.dim: removal for removal in first.removals}
    found: dict[bool, Dim] = {}
    for removal in second.removals:
        if (row := rows.get(removal.dim)) is None:
            continue
        if removal.size not in (row.size, row.size - len(row.removed)):
            raise UsageError(
                f"{removal.dim} has {row.size} positions in one plan and {removal.size} in the other, "
                f"which is neither as many nor what {len(row.removed)} removals leave",
                "the plans are of different models",
            )
        if row.removed:
            found[removal.size != row.size] = removal.dim
    if len(found) > 1:
        raise UsageError(
            f"{found[False]} has its full size in the second plan, {found[True]} has lost positions before",
            "the second plan was made for a model that only some of the first plan's removals were made in",
        )
    return True in found


def _union(first: Sequence[Removal], second: Sequence[Removal]) -> list[Removal]:
    """The removals of both, in the first's order; checked against each other only."""
    rows = {removal.dim: removal for removal in first}
    for removal in second:
        known = rows.get(removal.dim, removal)
        rows[removal.dim] = msgspec.structs.replace(known, removed=sorted({*known.removed, *removal.removed}))
    return list(rows.values())


def _on(original: Model, first: Plan, second: Plan, stacked: bool) -> list[Removal]:
    """The removals of both, as whole units of the original."""
    layers = dict.fromkeys([*layers_of(first, original), *layers_of(second, original)])
    state = State(original, layers=tuple(layers))
    for step in parse(", ".join(_interleave(first.before, second.before))):
        state = step.run(state)
    groups = traced(original, state.model, state.prunable)
    if not stacked:
        both = msgspec.structs.replace(first, removals=_union(first.removals, second.removals))
        return removals_of(original, as_drop(both, original, groups), groups)
    drop = {name: set(units.tolist()) for name, units in as_drop(first, original, groups).items()}
    going = gone(groups, as_drop(first, original, groups))
    left = {d: np.flatnonzero(~going.get(d, np.zeros(len(at), bool))) for g in groups for d, at in g.labels.items()}
    # Weights that the first run's last passes made, such as the bias of a folded normalisation, follow from the others.
    known = {*original.shapes, *state.model.shapes}
    second = msgspec.structs.replace(second, removals=[r for r in second.removals if r.tensor in known])
    check(second, {dim: len(positions) for dim, positions in left.items()})
    for group in groups:
        for removal in second.removals:
            if removal.dim in group.labels:
                units = group.labels[removal.dim][left[removal.dim][removal.removed]]
                drop.setdefault(group.name, set()).update(units[units >= 0].tolist())
    chosen = {name: np.array(sorted(units)) for name, units in drop.items() if units}
    for group in groups:
        if group.size - len(chosen.get(group.name, ())) < group.least:
            raise UsageError(
                f"together the plans remove too much of {group.name}", f"leave at least {group.least} of its positions"
            )
    return removals_of(original, chosen, groups)


def _interleave(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The passes of both lists, each once, in an order that both have.

    Raises:
        UsageError: they give one pass different options.
    """
    merged: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        merged += first[a:b] if kind == "equal" else [*first[a:b], *second[c:d]]
        for one in first[a:b] if kind == "replace" else ():
            for other in second[c:d]:
                if one.partition("(")[0] == other.partition("(")[0]:
                    raise UsageError(f"one plan runs '{one}', the other '{other}'", "make them the same in both")
    return merged
