"""The command line: ``graphprune VERB model.onnx``."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from graphprune.errors import GraphpruneError, LimitError, UsageError, visible
from graphprune.limits import limit
from graphprune.options import (
    CalibrationData,
    DimParam,
    Exclude,
    Force,
    Include,
    InputShape,
    Json,
    MaxMemory,
    MaxSeconds,
    ModelPath,
    Passes,
    PlanPath,
    Preset,
    Quiet,
    Ratio,
    RoundTo,
    Seed,
    TargetMacs,
    TargetParams,
    Verbose,
    shape,
    size,
)

app = typer.Typer(
    name="graphprune",
    help="An ONNX graph-level pruning compiler: a smaller model that provably computes what the cut promised.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 unusable model, 4 nothing to prune, 5 target not reached, "
    "6 verification failed, 7 output exists or cannot be written, 8 compilation failed, 9 limit of memory or time, "
    "130 interrupted.",
)
# Names and paths may look like markup.
out = Console(markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


@app.callback()
def limits(max_memory: MaxMemory = None, max_seconds: MaxSeconds = 86400) -> None:
    """Limit what a run may take, then do as the verb says."""
    limit(max_memory, max_seconds)


@app.command()
def inspect(
    model: ModelPath,
    include: Include = "",
    exclude: Exclude = "",
    input_shape: InputShape = [],  # noqa: B006  (typer copies it)
    dim_param: DimParam = [],  # noqa: B006
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what can be pruned, and why the rest cannot.

    Example: graphprune inspect model.onnx
    """
    from graphprune import api, report, tables

    found = api.inspect(model, include=include, exclude=exclude, **_sizes(input_shape, dim_param)).report
    if json:
        _print_json(report.to_json(found))
        return
    if found.groups:
        out.print(tables.groups(found))
    if found.pinned:
        out.print(tables.pins(found))
    cost = found.before
    out.print(
        f"{len(found.groups)} groups, {cost.channels:,} units; {cost.parameters:,} parameters, {cost.macs:,} MACs"
        + (f" at {_shapes(found.input_shapes)}" if found.input_shapes else "")
    )


@app.command()
def prune(
    model: ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write. [default: MODEL.pruned.onnx]")
    ] = None,
    ratio: Ratio = None,
    target_macs: TargetMacs = None,
    target_params: TargetParams = None,
    round_to: RoundTo = 8,
    preset: Preset = "obs",
    passes: Passes = None,
    plan: PlanPath = None,
    include: Include = "",
    exclude: Exclude = "",
    input_shape: InputShape = [],  # noqa: B006
    dim_param: DimParam = [],  # noqa: B006
    seed: Seed = 0,
    calibration_data: CalibrationData = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Also write the report as a page to read.", metavar="FILE.html")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and prove, but write nothing.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a smaller ONNX file that provably computes what the cut promised.

    Example: graphprune prune model.onnx --target-macs 50% -o small.onnx
    """
    from graphprune import api, html, report, tables
    from graphprune.output import claim_file, new_files

    output = output or model.with_suffix(".pruned.onnx")
    files = [output, api.plan_path(output), *([report_file] if report_file else [])]
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError(f"{report_file} is to hold the report and something else", "give --report another file")
    for file in files if not dry_run else []:
        claim_file(file, force, model)
    with _progress(quiet or json, verbose) as announce:
        result = api.prune(
            model,
            **_amounts(ratio, target_macs, target_params, round_to, preset, passes, plan),
            **_sizes(input_shape, dim_param),
            include=include,
            exclude=exclude,
            seed=seed,
            calibration_data=calibration_data,
            command=_command(),
            announce=announce,
        )
        if not dry_run:
            result.save(output)
            if report_file:
                with new_files(report_file) as folder:
                    (folder / report_file.name).write_text(html.render(result.report), "utf-8")
    if json:
        _print_json(report.to_json(result.report))
    elif not quiet:
        out.print(tables.summary(result.report, {}))
        _advise(result.report)
        out.print("nothing written (--dry-run)" if dry_run else f"wrote {', '.join(map(str, files))}")


@app.command()
def compile(
    model: ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to write. [default: MODEL.graphprune]")
    ] = None,
    target: Annotated[list[str], typer.Option(help="What to compile for; repeatable.")] = ["host"],  # noqa: B006
    ratio: Ratio = None,
    target_macs: TargetMacs = None,
    target_params: TargetParams = None,
    round_to: RoundTo = 8,
    preset: Preset = "obs",
    passes: Passes = None,
    plan: PlanPath = None,
    include: Include = "",
    exclude: Exclude = "",
    input_shape: InputShape = [],  # noqa: B006
    dim_param: DimParam = [],  # noqa: B006
    seed: Seed = 0,
    calibration_data: CalibrationData = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and prove, but compile and write nothing.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prune a model and compile it: one folder with model.onnx, plan.json, report.json and the libraries.

    Example: graphprune compile model.onnx --target-macs 80%
    """
    from graphprune import api, report, tables

    output = output or model.with_suffix(".graphprune")
    options: dict[str, Any] = {
        **_amounts(ratio, target_macs, target_params, round_to, preset, passes, plan),
        **_sizes(input_shape, dim_param),
        "include": include,
        "exclude": exclude,
        "seed": seed,
        "calibration_data": calibration_data,
        "command": _command(),
    }
    with _progress(quiet or json, verbose) as announce:
        if dry_run:
            result = api.prune(model, announce=announce, **options)
        else:
            result = api.compile(model, output, targets=target, force=force, announce=announce, **options)
    if json:
        _print_json(report.to_json(result.report))
    elif not quiet:
        out.print(tables.summary(result.report, result.report.latency))
        _advise(result.report)
        out.print("nothing written (--dry-run)" if dry_run else f"wrote {output}/")


@app.command()
def targets(json: Json = False) -> None:
    """List what can be compiled for, and what is missing here to do it or to run the result.

    Example: graphprune targets
    """
    from graphprune import execute, tables

    found = execute.survey()
    if json:
        import msgspec

        _print_json(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    out.print(tables.targets(found))


@app.command()
def verify(
    original: ModelPath,
    pruned: Annotated[Path, typer.Argument(help="A pruned file, or a folder that `compile` wrote.", metavar="PRUNED")],
    plan: PlanPath = None,
    input_shape: InputShape = [],  # noqa: B006
    dim_param: DimParam = [],  # noqa: B006
    seed: Seed = 0,
    calibration_data: CalibrationData = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prove that a pruned model equals its original with the same units zeroed.

    Example: graphprune verify model.onnx model.graphprune
    """
    from graphprune import api, report
    from graphprune import plan as plans
    from graphprune.errors import VerificationError

    model = pruned / "model.onnx" if pruned.is_dir() else pruned
    sizes = _sizes(input_shape, dim_param)
    agreement = api.verify(
        original, model, plans.read(plan or api.plan_path(model)), seed=seed, calibration_data=calibration_data, **sizes
    )
    if json:
        _print_json(report.to_json(agreement))
    if not agreement.holds:
        raise VerificationError(
            f"{model} is off by {agreement.error:.2e} from what the plan makes of {original}, "
            f"more than {agreement.rtol:.0e}",
            "it was changed after pruning, or belongs to another original or plan",
        )
    if not (quiet or json):
        out.print(f"ok: largest error {agreement.error:.1e}, allowed {agreement.rtol:.0e}")


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files and compiled folders; the first is the baseline.")],
    seconds: Annotated[float, typer.Option(help="How long to measure in all.")] = 5.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime; libraries use one.")] = 1,
    input_shape: InputShape = [],  # noqa: B006
    dim_param: DimParam = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Time models in turn on the same inputs: medians, quartiles, ratios.

    Example: graphprune bench model.onnx model.graphprune
    """
    from graphprune import api, tables

    sizes = _sizes(input_shape, dim_param)
    timings = api.bench(models, seconds=seconds, threads=threads, seed=seed, **sizes)
    if json:
        import msgspec

        _print_json(msgspec.json.format(msgspec.json.encode(timings), indent=2))
        return
    out.print(tables.latencies(timings))
    runs = next(iter(timings.values())).runs
    out.print(f"{runs} rounds in turn, onnxruntime with {threads} thread{'s' * (threads > 1)}, libraries with 1")


def _sizes(input_shape: list[str], dim_param: list[str]) -> dict[str, Any]:
    return {"input_shapes": dict(map(shape, input_shape)), "dim_params": dict(map(size, dim_param))}


def _amounts(
    ratio: float | None,
    macs: float | None,
    params: float | None,
    round_to: int,
    preset: str,
    passes: str | None,
    plan: Path | None,
) -> dict[str, Any]:
    from graphprune import plan as plans

    targets = macs if macs is not None else params
    ways = {"--ratio": ratio, "--target-macs or --target-params": targets, "--passes": passes, "--plan": plan}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", "give one way to say what to remove")
    return {
        "ratio": ratio,
        "target_macs": macs,
        "target_params": params,
        "round_to": round_to,
        "preset": preset,
        "passes": passes,
        "plan": plans.read(plan) if plan else None,
    }


def _advise(report: Any) -> None:
    if report.kept.channels == 1 and report.groups:
        out.print("Nothing was asked to be removed: --ratio 30%, --target-macs 80% or --target-params 50% prune.")


@contextmanager
def _progress(quiet: bool, verbose: bool) -> Iterator[Any]:
    """Announce steps: a spinner on a terminal, a line each with -v, nothing otherwise."""
    if quiet:
        yield lambda text: None
    elif verbose or not err.is_terminal:
        yield (lambda text: err.print(visible(text), style="dim")) if verbose else (lambda text: None)
    else:
        with err.status("start") as status:
            yield lambda text: status.update(escape(visible(text)))


def _print_json(data: bytes) -> None:
    sys.stdout.write(data.decode().rstrip() + "\n")


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{visible(name)} {'×'.join(map(str, shape))}" for name, shape in shapes.items())


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def main() -> None:
    """Run the command line; every deliberate error is one line, a hint, and its exit code."""
    verbose = bool({"-v", "--verbose"} & set(sys.argv))
    try:
        app()
    except GraphpruneError as error:
        _fail(str(error), error.hint, error.exit_code, verbose)
    except MemoryError:
        _fail(
            "out of memory", "raise the limit with --max-memory, or use a smaller model", LimitError.exit_code, verbose
        )
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written", "", 130, verbose)
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}", "this is a defect: run again with -v and report it", 1, verbose)


def _fail(message: str, hint: str, code: int, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    err.print(
        f"error: {visible(' '.join(message.split()))}", style="red", markup=False, highlight=False, soft_wrap=True
    )
    if hint:
        err.print(f"hint: {visible(hint)}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
