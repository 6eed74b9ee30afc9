"""The library: what each verb of the command line does, as a function."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import msgspec
from onnx import ModelProto

from graphprune import plan as plans
from graphprune.building import cache_of, peak_of, picked
from graphprune.calibration.images import real_inputs, scale_of
from graphprune.clocks import Clock, compiled_clock, onnxruntime_clock
from graphprune.errors import TargetNotReachedError, UsageError, VerificationError
from graphprune.fidelity import measure
from graphprune.groups import Dependencies
from graphprune.latency import interleave
from graphprune.model import Model, load, save
from graphprune.options import (
    CompileOptions,
    InspectOptions,
    ModelOptions,
    PruneOptions,
    RunOptions,
    takes,
)
from graphprune.output import claim_folder, new_files, new_folder
from graphprune.pipeline import BEFORE, Record, parse, run
from graphprune.plan import Plan
from graphprune.presets import check, replay, spares, too_large
from graphprune.proof import COMPILED_RTOL, REWRITE_RTOL, Agreement, Runner, judge, rtol, seeded_inputs
from graphprune.proof import Inputs as Inputs  # the signatures made of the options name it
from graphprune.report import KernelReport, Report, TargetReport, html, to_json
from graphprune.report import build as build_report
from graphprune.report.kernels import kernel_reports
from graphprune.rounds import met
from graphprune.sensitivity import sensitive
from graphprune.state import State
from graphprune.typed import patterns

if TYPE_CHECKING:
    from graphprune.compiler import Artefact

Source = str | os.PathLike[str] | ModelProto | Model
Announce = Callable[[str], None]


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Inspection:
    """The groups of a model and the reasons for what is pinned, with what the model costs.

    Attributes:
        model: with its shape arithmetic folded, as a cut would find it.
        dependencies: of that model.
        report: the same as data.
    """

    model: Model
    dependencies: Dependencies
    report: Report


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model.

    Attributes:
        original: as loaded.
        model: pruned, folded and cleaned.
        plan: what was removed.
        report: what was found, done and proved.
        records: of every step.
    """

    original: Model
    model: Model
    plan: Plan
    report: Report
    records: tuple[Record, ...]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the pruned model, with where it came from in its metadata, and its plan beside it.

        Returns:
            The plan's file: ``small.plan.json`` for ``small.onnx``.
        """
        # The plan's passes, not this run's: a replay writes the same bytes.
        passes = ", ".join([*self.plan.before, *(["cut"] if self.plan.removals else []), *self.plan.after])
        provenance = {"graphprune.version": self.report.versions["graphprune"], "graphprune.passes": passes}
        path = Path(path)
        with new_files(path) as folder:
            save(self.model, folder / path.name, metadata=provenance)
            (folder / plan_path(path).name).write_bytes(plans.to_json(self.plan))
        return plan_path(path)


def plan_path(path: Path) -> Path:
    """Where the plan of a pruned file lies."""
    return path.with_suffix(".plan.json") if path.name != "model.onnx" else path.with_name("plan.json")


def _load(source: Source, options: ModelOptions, plan: Plan | None = None) -> Model:
    """A model at the sizes asked for, or without any, at those of a plan."""
    shapes, params = options["input_shapes"], options["dim_params"]
    if plan is not None and not (shapes or params):
        shapes = plan.input_shapes
    return source if isinstance(source, Model) else load(source, input_shapes=shapes, dim_params=params)


@takes
def inspect(
    source: Source, *, command: str = "", sensitivity: bool = False, **options: Unpack[InspectOptions]
) -> Inspection:
    """Find what can be pruned, and why the rest cannot. Nothing is run, unless it is asked what pruning would cost.

    Args:
        source: a path, an ONNX protobuf or a loaded model; never changed.
        command: noted in the report.
        sensitivity: whether to calibrate and predict the error of every group at every width, and of the whole model
            against its multiply-accumulates.

    Raises:
        InvalidModelError: the source is no model that can be read.
    """
    model = _load(source, options)
    state = _prepared(_start(model, options))
    report = build_report(model, state, model, [], command, {})
    if sensitivity:
        report = sensitive(state, report)
    return Inspection(state.model, state.dependencies, report)


@takes
def prune(
    source: Source, *, command: str = "", announce: Announce = _silent, **options: Unpack[PruneOptions]
) -> Result:
    """Make a model physically smaller, and prove that it computes what the cut promised.

    Args:
        source: a path, an ONNX protobuf or a loaded model; never changed.
        command: noted in the report.
        announce: called with the text of each step before it runs.

    Raises:
        InvalidModelError: the source is no model that can be read or run.
        NothingToPruneError: every axis is pinned.
        TargetNotReachedError: not so much can be removed at legal widths.
        UsageError: options that exclude each other, or a pipeline, plan or data that make no sense.
        VerificationError: a pass broke the model; names the pass and the tensor.
    """
    return _pruned(source, onnxruntime_clock(), command, announce, options)


def _pruned(source: Source, clock: Clock, command: str, announce: Announce, options: PruneOptions) -> Result:
    """``prune``, with what times models for a latency target."""
    began = time.perf_counter()
    check(options)
    seed = options["seed"]
    announce("load")
    model = _load(source, options, options["plan"])
    loaded = time.perf_counter() - began
    given, unseen = _real(options, "calibration_data", model), _real(options, "held_out", model).get("inputs")
    real = given.get("inputs")
    start = replace(_start(model, options), data=given)
    if (plan := options["plan"]) is not None:
        start = replace(start, inexact=plan.inexact, layers=plans.layers_of(plan, model))
    notes = [*given.get("notes", ()), *filter(None, [too_large(model)] if spares(options) else [])]
    start = replace(start, data={**start.data, "notes": tuple(notes), "profile": clock.profile})
    steps, state, records = met(model, start, clock, announce, options)
    analysed = next((r.before for r in records if r.cut), None)
    if analysed is None:
        if any(step.text == "cut" for step in steps):
            raise TargetNotReachedError(
                f"{model.name}: no group can lose a unit under these limits",
                "ask for more, or allow other widths with --round-to 1",
            )
        analysed = _prepared(replace(start, layers=()))
    seconds = {"load": loaded, "prune": time.perf_counter() - began - loaded}
    announce("measure the error")
    fidelity = measure(model, state.model, seed=seed, given=real if unseen is None else unseen, seen=unseen is None)
    if (most := options["max_error"]) is not None and not fidelity.error <= most:
        raise TargetNotReachedError(
            f"{model.name}: the outputs are off by {fidelity.error:.2%} on {fidelity.inputs} {fidelity.source}, "
            f"more than {most:.2%}",
            "remove less, or allow more with --max-error",
        )
    report = build_report(model, analysed, state.model, records, command, seconds, fidelity, state.data)
    return Result(model, state.model, plans.from_records(model, records, start.inexact), report, tuple(records))


@takes
def compile(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    targets: Sequence[str] = ("host",),
    mcpu: str = "",
    embed_weights: bool = False,
    package: str = "",
    force: bool = False,
    timing_seconds: float = 2.0,
    command: str = "",
    announce: Announce = _silent,
    **options: Unpack[CompileOptions],
) -> Result:
    """Prune, compile for every target, and write one folder with all that came of it.

    The folder holds ``model.onnx``, ``plan.json``, ``report.json``, ``report.html`` and a sub-folder per target; it
    appears whole or not at all.

    Args:
        source: as for ``prune``.
        folder: where to; must not exist.
        targets: names of compile targets.
        mcpu: a processor, for the targets that know it.
        embed_weights: put the weights into the libraries, in place of a file beside them.
        package: ``python`` adds a wheel to every folder of a C library, named after ``folder``.
        force: replace an earlier result in ``folder``.
        timing_seconds: how long to time original, pruned and compiled model; 0 for not at all.
        command: noted in the report.
        announce: called with the text of each step before it runs.

    Raises:
        OutputError: the folder exists or cannot be made.
        CompileError: a target is unknown or cannot be built, or its artefact does not run.
        VerificationError: an artefact that can run here differs from onnxruntime.
    """
    from graphprune.compiler import compile_model
    from graphprune.compiler.targets import resolve_all
    from graphprune.compiler.tune import timeable
    from graphprune.execute import execution
    from graphprune.wheel import write_wheel

    folder = Path(folder)
    if package not in ("", "python"):
        raise UsageError(f"unknown kind of package {package!r}", "there is: python")
    claim_folder(folder, force)
    machines = resolve_all(targets, mcpu)
    if options["tune"] != "off" and not any(map(timeable, machines.values())):
        raise UsageError("none of these targets can be timed on this machine", "leave --tune out")
    first = next(iter(machines.values()))
    result = _pruned(source, compiled_clock(first, picked(first, options)), command, announce, options)
    given = seeded_inputs(result.original, options["seed"])
    inputs = {name: given[name] for name in result.model.inputs}
    reference = Runner(result.model, optimise=True)(inputs)
    tolerance = rtol(result.model, COMPILED_RTOL)
    reports: list[TargetReport] = []
    calls: dict[str, Callable[[], object]] = {
        "original, onnxruntime": partial(Runner(result.original, optimise=True, threads=1), given),
        "pruned, onnxruntime": partial(Runner(result.model, optimise=True, threads=1), inputs),
    }
    elsewhere: dict[str, Callable[[float], list[float]]] = {}
    with new_folder(folder, force) as beside:
        result.save(beside / "model.onnx")
        for target, machine in machines.items():
            announce(f"compile for {target}")
            artefact = compile_model(
                result.model.proto(),
                beside / machine.name,
                machine,
                result.model.chosen_shapes,
                announce,
                embed_weights,
                picked(machine, options),
                cache_of(options),
            )
            if package and not machine.javascript:
                write_wheel(artefact.folder, folder.stem)
            way = execution(artefact.folder)
            agreement = judge(way.run(inputs), reference, tolerance, result.model, inputs) if way.run else None
            if agreement and not agreement.holds:
                raise VerificationError(
                    f"the library for {target} is off by {agreement.error:.2e} from onnxruntime, "
                    f"more than {agreement.rtol:.0e}",
                    "nothing was written; please report the model",
                )
            spent = way.profile(inputs) if way.profile else None
            layers = kernel_reports(result.model, artefact.manifest.kernels, spent)
            reports.append(
                _target_report(artefact, way.by, agreement, layers, None if spent is None else peak_of(machine))
            )
            if way.run and way.in_process:
                calls[f"compiled, {machine.name}"] = partial(way.run, inputs)
            if way.times:
                elsewhere[f"compiled, {machine.name} in {way.by}, timed alone"] = partial(way.times, inputs)
        announce("time")
        latency = interleave(calls, seconds=timing_seconds, alone=elsewhere) if timing_seconds else {}
        report = msgspec.structs.replace(result.report, targets=reports, latency=latency)
        (beside / "report.json").write_bytes(to_json(report))
        (beside / "report.html").write_text(html.render(report), "utf-8")
    return replace(result, report=report)


@takes
def verify(original: Source, pruned: Source, plan: Plan, **options: Unpack[RunOptions]) -> Agreement:
    """Prove a pruned file against its original and its plan.

    The plan is replayed, which proves the law anew (the cut equals the original with the plan's removals zeroed); the
    file must then compute what the replay computes.

    Args:
        original: the model before, as for ``prune``.
        pruned: the model after.
        plan: what was removed from the one to make the other.

    Returns:
        How far the file is from the replay, and what is allowed: ``holds`` says whether it is within that.

    Raises:
        UsageError: the plan does not fit the original.
        VerificationError: the replay breaks the law.
    """
    seed = options["seed"]
    model = _load(original, options, plan)
    given = _real(options, "calibration_data", model)
    start = State(model, inexact=plan.inexact, layers=plans.layers_of(plan, model), data=given)
    state, _ = run(start, replay(plan, model), seed=seed)
    inputs = seeded_inputs(model, seed)
    shapes = {name: shape for name, shape in plan.input_shapes.items() if name in state.model.inputs}
    result = Runner(_load(pruned, options, msgspec.structs.replace(plan, input_shapes=shapes)))(inputs)
    return judge(result, Runner(state.model)(inputs), rtol(model, REWRITE_RTOL), state.model, inputs)


# ------------------------------------------------------------------------------------------------------------- parts


def _real(options: Any, name: str, model: Model) -> dict[str, Any]:
    scale = scale_of(options["mean"], options["std"], options["input_range"])
    return real_inputs(options[name], model, scale, name)


def _start(model: Model, options: InspectOptions) -> State:
    include, exclude = patterns(options["include"], "include"), patterns(options["exclude"], "exclude")
    return State(model, include=include, exclude=exclude, inexact=options["inexact"])


def _prepared(state: State) -> State:
    """The state a cut would start from."""
    for step in parse(BEFORE):
        state = step.run(state)
    return state


def _target_report(
    artefact: Artefact, by: str, agreement: Agreement | None, calls: list[KernelReport], peak: float | None
) -> TargetReport:
    kinds = Counter(kernel.kind for kernel in artefact.manifest.kernels)
    size = sum(f.stat().st_size for f in artefact.folder.iterdir())
    error, allowed = (agreement.error, agreement.rtol) if agreement else (None, None)
    seconds = dict(artefact.seconds)
    return TargetReport(artefact.folder.name, error, allowed, seconds, size, dict(kinds), by, calls, peak)
