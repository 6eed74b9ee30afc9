"""What pruning would cost, before deciding: error against width for each group, against MACs for the whole model."""

from __future__ import annotations

import msgspec

from graphprune.allocation import Budget
from graphprune.budget import Target
from graphprune.pipeline import SCORED, parse
from graphprune.report import Report
from graphprune.state import State


def sensitive(state: State, report: Report) -> Report:
    """The report with the curve of every group, and the trade-off of the whole model."""
    for step in parse(SCORED):
        state = step.run(state)
    budget = Budget(state, Target(floor=0.0))
    curves = {name: [(n, budget.curve(name, n)) for n in counts] for name, counts in budget.options.items()}
    groups = [msgspec.structs.replace(g, curve=curves.get(g.name, [])) for g in report.groups]
    notes = [*report.notes, *state.data.get("notes", ())]
    tradeoff = budget.tradeoff(budget.full, budget.savings(budget.full))
    return msgspec.structs.replace(report, groups=groups, tradeoff=tradeoff, notes=notes)
