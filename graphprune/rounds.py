"""Run what was asked for, again from the choice on until what only measuring can tell is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphprune.aiming import Aim, reach
from graphprune.clocks import Clock
from graphprune.cost import CostModel
from graphprune.model import Model
from graphprune.options import PruneOptions
from graphprune.pipeline import Record, Step, run
from graphprune.presets import as_steps, targets_of
from graphprune.report import size_text
from graphprune.state import State


def met(
    model: Model, start: State, clock: Clock, announce: Callable[[str], None], options: PruneOptions
) -> tuple[list[Step], State, list[Record]]:
    """The steps, the state they led to, and their records; sizes and latencies are measured on the result."""
    asked = targets_of(options)
    aims = []
    if (size := asked.get("size")) is not None:
        whole = CostModel(model).at().bytes
        kept = size if size <= 1 else size / whole
        aims.append(Aim("size", kept, lambda m: CostModel(m).at().bytes / whole, lambda s: size_text(round(s * whole))))
    if (latency := asked.get("latency")) is not None:
        milliseconds = clock.compare(model, model)[0]
        kept = latency if options["target_latency_ms"] is None else latency / milliseconds
        aims.append(Aim("latency", kept, lambda m: clock.compare(model, m)[1], lambda s: f"{s * milliseconds:.3g} ms"))
    fixed = {name: share for name, share in asked.items() if name not in ("size", "latency")}
    known: list[Record] = []

    def make(shares: Mapping[str, float]) -> tuple[list[Step], State, list[Record]]:
        steps = as_steps(options, model, {**fixed, **{name: min(share, 1.0) for name, share in shares.items()}})
        first = next((k for k, r in enumerate(known) if r.text != steps[k].text), 0)
        begin = known[first].before if known else start
        state, records = run(begin, steps[first:], seed=options["seed"], announce=announce)
        known[:] = [*known[:first], *records]
        return steps, state, [*known]

    return reach(aims, make, lambda made: made[1].model) if aims else make({})
