"""The command line: ``graphprune VERB model.onnx``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Unpack

import typer

from graphprune.cli import installation, plan
from graphprune.cli.flags import verb
from graphprune.cli.terminal import Terminal, fail
from graphprune.errors import GraphpruneError, LimitError, UsageError, VerificationError
from graphprune.options import (
    BenchOptions,
    BuildOptions,
    CompileOptions,
    CutOptions,
    InspectOptions,
    PruneOptions,
    RunOptions,
    asked,
    declared,
)
from graphprune.typed import counts, milliseconds, share, size, split

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
app.add_typer(plan.app)

ModelPath = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL.onnx", show_default=False)]
ReportPath = Annotated[
    Path | None, typer.Option("--report", help="Also write the report as a page to read.", metavar="FILE.html")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier result.")]
SHARES = "SHARE,SHARE"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and prove, but compile and write nothing.")]


@verb(app)
def inspect(
    terminal: Terminal,
    model: ModelPath,
    report: ReportPath = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also predict the error of every group by width, and of the whole.")
    ] = False,
    force: Force = False,
    **options: Unpack[InspectOptions],
) -> None:
    """Show what can be pruned, and why the rest cannot.

    Examples:

    graphprune inspect model.onnx

    graphprune inspect model.onnx --sensitivity --report cost.html

    graphprune inspect detector.onnx --input-shape images:1,3,640,640 --report groups.html
    """
    from graphprune import api
    from graphprune.cli import tables
    from graphprune.output import claim_file

    if report:
        claim_file(report, force, model)
    found = api.inspect(model, command=_command(), sensitivity=sensitivity, **options).report
    if report:
        _write_page(found, report)
    terminal.data(found)
    if found.groups:
        terminal.show(tables.groups(found), *(tables.sensitivity(found) if sensitivity else []))
    if found.pinned:
        terminal.show(tables.pins(found))
    terminal.show(tables.totals(found), *([f"wrote {report}"] if report else []))


@verb(app)
def prune(
    terminal: Terminal,
    model: ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write. [default: MODEL.pruned.onnx]")
    ] = None,
    report: ReportPath = None,
    dry_run: DryRun = False,
    force: Force = False,
    **options: Unpack[PruneOptions],
) -> None:
    """Write a smaller ONNX file that provably computes what the cut promised.

    Examples:

    graphprune prune model.onnx --target-macs 50% -o small.onnx

    graphprune prune model.onnx --ratio 0.3 --exclude head --report report.html

    graphprune prune model.onnx --plan small.plan.json -o again.onnx
    """
    from graphprune import api
    from graphprune.cli import tables
    from graphprune.output import claim_file

    output = output or model.with_suffix(".pruned.onnx")
    files = [output, api.plan_path(output), *([report] if report else [])]
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError(f"{report} is to hold the report and something else", "give --report another file")
    for file in files if not dry_run else []:
        claim_file(file, force, model)
    with terminal.progress() as announce:
        result = api.prune(model, command=_command(), announce=announce, **options)
        if not dry_run:
            result.save(output)
            if report:
                _write_page(result.report, report)
    terminal.data(result.report)
    written = "nothing written (--dry-run)" if dry_run else f"wrote {', '.join(map(str, files))}"
    terminal.show(tables.summary(result.report, {}), *_advice(result.report, options), written)


@verb(app)
def compile(
    terminal: Terminal,
    model: ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to write. [default: MODEL.graphprune]")
    ] = None,
    target: Annotated[
        list[str], typer.Option(help="What to compile for; repeatable.", autocompletion=lambda: _targets())
    ] = ["host"],  # noqa: B006  (typer copies it)
    mcpu: Annotated[str, typer.Option(help="A processor of the target, e.g. cortex-a53.", metavar="NAME")] = "",
    embed_weights: Annotated[bool, typer.Option("--embed-weights", help="Put the weights into the libraries.")] = False,
    package: Annotated[str, typer.Option(help="`python` adds a wheel of every C library.", metavar="KIND")] = "",
    dry_run: DryRun = False,
    force: Force = False,
    **options: Unpack[CompileOptions],
) -> None:
    """Prune a model and compile it: one folder with model.onnx, plan.json, report.json and the libraries.

    Examples:

    graphprune compile model.onnx --target-macs 80%

    graphprune compile model.onnx --target-macs=0.5 --target wasm32 --target aarch64 -o small

    graphprune compile model.onnx --config graphprune.toml
    """
    from graphprune import api
    from graphprune.cli import tables

    output = output or model.with_suffix(".graphprune")
    with terminal.progress() as announce:
        common: dict[str, Any] = {"command": _command(), "announce": announce, **options}
        if dry_run:
            result = api.prune(model, **{name: common[name] for name in common if name not in declared(BuildOptions)})
        else:
            common |= {"targets": target, "mcpu": mcpu, "embed_weights": embed_weights, "package": package}
            result = api.compile(model, output, force=force, **common)
    terminal.data(result.report)
    written = "nothing written (--dry-run)" if dry_run else f"wrote {output}/"
    terminal.show(tables.summary(result.report, result.report.latency), *_advice(result.report, options), written)


@verb(app)
def sweep(
    terminal: Terminal,
    model: ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to write or go on with. [MODEL.sweep]")
    ] = None,
    ratio: Annotated[list[str], typer.Option(help="Shares to remove from every group.", metavar=SHARES)] = [],  # noqa: B006
    target_macs: Annotated[
        list[str], typer.Option(help="Shares of multiply-accumulates to keep.", metavar=SHARES)
    ] = [],  # noqa: B006
    target_params: Annotated[list[str], typer.Option(help="Shares of parameters to keep.", metavar=SHARES)] = [],  # noqa: B006
    target_size: Annotated[
        list[str], typer.Option(help="Bytes of weights to keep at most, or shares of them.", metavar="SIZE,SIZE")
    ] = [],  # noqa: B006
    target_latency: Annotated[
        list[str], typer.Option(help="Shares of the latency to keep at most.", metavar=SHARES)
    ] = [],  # noqa: B006
    target_latency_ms: Annotated[list[str], typer.Option(help="The same in milliseconds.", metavar="MS,MS")] = [],  # noqa: B006
    preset: Annotated[list[str], typer.Option(help="How units are scored.", metavar="NAMES")] = ["obs"],  # noqa: B006
    target: Annotated[
        list[str], typer.Option(help="What to compile every point for; without it none is.", metavar="NAMES")
    ] = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(min=1, help="Points to make at a time.")] = 1,
    ray: Annotated[str, typer.Option(help="Make them on a Ray cluster, or on `local`.", metavar="ADDRESS")] = "",
    evaluation: Annotated[
        str,
        typer.Option(
            "--eval", help="A command whose last line is the score of {model}; run without a shell.", metavar="COMMAND"
        ),
    ] = "",
    max_error: Annotated[
        str, typer.Option(help="Choose among points of at most this output error, e.g. 5%.", metavar="SHARE")
    ] = "",
    min_score: Annotated[float | None, typer.Option(help="Choose among points of at least this score.")] = None,
    fastest: Annotated[bool, typer.Option("--fastest", help="Choose the fastest of them, not the smallest.")] = False,
    timing_seconds: Annotated[float, typer.Option(min=0, help="How long to time all points in turn.")] = 5.0,
    force: Annotated[bool, typer.Option("--force", help="Begin anew where the folder holds another sweep.")] = False,
    **options: Unpack[CutOptions],
) -> None:
    """Prune by many amounts, and say which results are worth having. Run again, it makes only what is missing.

    Values are separated by commas, or the flag is repeated.

    Examples:

    graphprune sweep model.onnx --target-macs 80%,60%,40% --max-error 20%

    graphprune sweep model.onnx --ratio 0.2,0.4 --preset obs,magnitude --target host --jobs 2 --fastest --max-error 10%

    graphprune sweep model.onnx --target-macs 70%,50% --eval "python my_eval.py {model}" --min-score 0.9
    """
    from graphprune.cli import tables
    from graphprune.sweep import sweep as run

    output = output or model.with_suffix(".sweep")
    amounts: list[tuple[str, Callable[[str], float], list[str]]] = [
        ("ratio", share, ratio),
        ("target_macs", share, target_macs),
        ("target_params", share, target_params),
        ("target_size", size, target_size),
        ("target_latency", share, target_latency),
        ("target_latency_ms", milliseconds, target_latency_ms),
    ]
    with terminal.progress() as announce:
        found = run(
            model,
            output,
            amounts=[(name, read(text)) for name, read, texts in amounts for text in split(texts)],
            presets=split(preset),
            targets=split(target),
            jobs=jobs,
            ray=ray,
            evaluation=evaluation,
            max_error=share(max_error) if max_error else None,
            min_score=min_score,
            fastest=fastest,
            timing_seconds=timing_seconds,
            force=force,
            announce=announce,
            **options,
        )
    terminal.data(found)
    best = [f"best: {output / 'points' / found.best}/model.onnx"] if found.best else []
    terminal.show(*tables.points(found), *best, f"wrote {output}/")


verb(app)(installation.targets)
verb(app)(installation.doctor)


@verb(app)
def verify(
    terminal: Terminal,
    original: ModelPath,
    pruned: Annotated[Path, typer.Argument(help="A pruned file, or a folder that `compile` wrote.", metavar="PRUNED")],
    plan: Annotated[
        Path | None,
        typer.Option(help="What was removed. [default: the plan beside PRUNED]", metavar="PLAN.json"),
    ] = None,
    **options: Unpack[RunOptions],
) -> None:
    """Prove that a pruned model equals its original with the same units zeroed.

    Examples:

    graphprune verify model.onnx model.graphprune

    graphprune verify model.onnx small.onnx --json
    """
    from graphprune import api
    from graphprune import plan as plans

    model = pruned / "model.onnx" if pruned.is_dir() else pruned
    with terminal.progress() as announce:
        announce("replay the plan")
        agreement = api.verify(original, model, plans.read(plan or api.plan_path(model)), **options)
    terminal.data(agreement)
    if not agreement.holds:
        raise VerificationError(
            f"{model} is off by {agreement.error:.2e} from what the plan makes of {original}, "
            f"more than {agreement.rtol:.0e}",
            "it was changed after pruning, or belongs to another original or plan",
        )
    terminal.show(f"ok: largest error {agreement.error:.1e}, allowed {agreement.rtol:.0e}")


@verb(app)
def bench(
    terminal: Terminal,
    models: Annotated[list[Path], typer.Argument(help="ONNX files and compiled folders; the first is the baseline.")],
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure in all.")] = 5.0,
    threads: Annotated[
        list[str], typer.Option(help="Threads that each candidate may use, 0 for all; repeatable.", metavar="N,N")
    ] = ["1,0"],  # noqa: B006
    layers: Annotated[bool, typer.Option(help="Show every layer of the last model that is compiled.")] = True,
    **options: Unpack[BenchOptions],
) -> None:
    """Time models in turn in one run: in onnxruntime, compiled, and with their zeros not skipped; then layer by layer.

    Examples:

    graphprune bench model.onnx

    graphprune bench model.onnx model.graphprune --threads 1 --seconds 20 --tune quick
    """
    from graphprune import benching
    from graphprune.cli import tables

    with terminal.progress() as announce:
        found = benching.bench(models, seconds=seconds, threads=counts(threads), announce=announce, **options)
    terminal.data(found)
    shown = [*found.layers.items()][-1:] if layers else []
    terminal.show(
        *tables.latencies(found.timings),
        *(part for name, calls in shown for part in tables.layers(name, calls, found.peak)),
    )


def _write_page(report: Any, path: Path) -> None:
    from graphprune.output import new_files
    from graphprune.report import html

    with new_files(path) as folder:
        (folder / path.name).write_text(html.render(report), "utf-8")


def _advice(report: Any, options: Any) -> list[str]:
    """What buys more, where no amount was given."""
    if not report.groups or asked(options):
        return []
    said = next((note for note in report.notes if "nearly free" in note), "nothing was removed")
    more = "--target-macs 80%, --target-size 50%, --target-latency 60% or --ratio 30% prune more"
    return [f"No amount was given: {said}. {more}; graphprune inspect --sensitivity shows what that costs."]


def _targets() -> list[str]:
    from graphprune.compiler.targets import available

    return list(available())


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def main(interrupted: Callable[[], bool] = lambda: False) -> None:
    """Run the command line; every deliberate error is one line, a hint, and its exit code.

    Args:
        interrupted: whether the process has been asked to end.

    Raises:
        KeyboardInterrupt: it has; native code and modules that are being loaded make other errors of that.
    """
    try:
        app()
    except Exception as error:
        if interrupted():
            raise KeyboardInterrupt from error
        if isinstance(error, GraphpruneError):
            _end(str(error), error.hint, error.exit_code)
        if isinstance(error, MemoryError):
            hint = "raise the limit with --max-memory, or use a smaller model"
            _end("out of memory", hint, LimitError.exit_code)
        _end(f"{type(error).__name__}: {error}", "this is a defect: run again with -v and report it", 1)


def _end(message: str, hint: str, code: int) -> NoReturn:
    fail(message, hint)
    sys.exit(code)
