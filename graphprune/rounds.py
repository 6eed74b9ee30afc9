"""Run what was asked for, again from the choice on until what only measuring can tell is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

from graphprune.aiming import Aim, reach
from graphprune.clocks import Clock
from graphprune.cost import CostModel
from graphprune.errors import GraphpruneError, NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.fidelity import measure
from graphprune.model import Model
from graphprune.options import PruneOptions
from graphprune.pipeline import Record, Step, run
from graphprune.presets import as_curves, as_steps, means_of, targets_of
from graphprune.report import size_text
from graphprune.state import State
from graphprune.trade import trade

Made = tuple[list[Step], State, list[Record]]


def met(
    model: Model,
    start: State,
    clock: Clock,
    announce: Callable[[str], None],
    options: PruneOptions,
    known: list[Record] | None = None,
) -> Made:
    """The steps, the state they led to, and their records; sizes and latencies are measured on the result.

    Args:
        model: the original.
        start: where the steps start.
        clock: what times models.
        announce: called with the text of each step before it runs.
        options: as checked.
        known: records of an earlier call with the same ``start``, whose steps are not run again as far as these here
            are the same; replaced by those of this call.
    """
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
    known = [] if known is None else known

    def run_from(steps: list[Step]) -> Made:
        """Run the steps, from where they differ from those before."""
        same = (r.text == s.text for r, s in zip(known, steps, strict=False))
        first = next((k for k, equal in enumerate(same) if not equal), min(len(known), len(steps) - 1))
        begin = known[first].before if first < len(known) else start
        state, records = run(begin, steps[first:], seed=options["seed"], announce=announce)
        known[:] = [*known[:first], *records]
        return steps, state, [*known]

    def make(shares: Mapping[str, float]) -> Made:
        return run_from(as_steps(options, model, {**fixed, **{name: min(s, 1.0) for name, s in shares.items()}}))

    def reached(make: Callable[[Mapping[str, float]], Made]) -> Made:
        (steps, state, records), found = reach(aims, make, lambda made: made[1].model)
        told = [f"{a.name}: {a.text(found[a.name])}, and at most {a.text(a.share)} were asked for" for a in aims]
        notes = (*state.data.get("notes", ()), *told)
        return steps, replace(state, data={**state.data, "notes": notes}), records

    if not aims:
        return make({})
    if latency is None or (means := means_of(options)) == ("channels",):
        return reached(make)
    if not clock.skips_zeros:
        if options["latency_by"] != "best":
            raise UsageError("zeros make nothing faster in onnxruntime", "compile the model, or leave --latency-by out")
        return reached(make)

    # Zeros are chosen by profiles, whose sum is not what a whole run takes: each is a share of its own kind.
    profiled = clock.profile(model)[0] if {*means} & {"zeros", "both"} else 0.0

    @cache
    def traded() -> float:
        return trade(run_from(as_curves(options))[1], min(kept, 1.0), options["round_to"])

    def sparse(channels: bool, shares: Mapping[str, float]) -> Made:
        """Meet a share of the latency with zeros, in what removing channels leaves if they are to go."""
        others = {name: min(share, 1.0) for name, share in shares.items() if name != "latency"}
        wanted = {**fixed, **others, **({"latency": traded()} if channels else {})}
        return run_from(as_steps(options, model, wanted, min(shares["latency"], 1.0) * profiled))

    ways: dict[str, Callable[[Mapping[str, float]], Made]] = {
        "zeros": partial(sparse, False),
        "channels": make,
        "both": partial(sparse, True),
    }
    if len(means) == 1:
        return reached(ways[means[0]])
    return _best({name: partial(reached, ways[name]) for name in means}, model, announce, options)


def _best(
    ways: Mapping[str, Callable[[], Made]], model: Model, announce: Callable[[str], None], options: PruneOptions
) -> Made:
    """Of the ways that meet the target, the one whose outputs are least off; what the others came to is noted.

    Outputs are compared on the inputs that calibration found most like real ones: what noise makes of them says little.
    """
    found: dict[str, Made] = {}
    errors: dict[str, float] = {}
    missed: GraphpruneError | None = None
    for name, way in ways.items():
        announce(f"meet the latency with {name}")
        try:
            found[name] = way()
        except (TargetNotReachedError, NothingToPruneError) as error:
            missed = missed or error
        else:
            state = found[name][1]
            like = state.data["calibration"].nearest
            errors[name] = measure(model, state.model, seed=options["seed"] + 1, given=like).error
    if not found:
        assert missed is not None
        raise missed
    best = min(errors, key=lambda name: errors[name])
    told = ", ".join(f"{name} {errors[name]:.2%}" if name in errors else f"{name} miss it" for name in ways)
    steps, state, records = found[best]
    notes = (*state.data.get("notes", ()), f"latency is met with {best}, by the error of the outputs: {told}")
    return steps, replace(state, data={**state.data, "notes": notes}), records
