"""Command line of the model zoo: `python -m models`, `… build NAME`, `… evaluate NAME`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graphprune.errors import GraphpruneError
from models import MissingError, catalogue, find
from models.zoo import CACHE, compiled_run, onnxruntime_run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Runtime(StrEnum):
    """What computes the outputs."""

    onnxruntime = "onnxruntime"
    compiled = "compiled"


@app.callback(invoke_without_command=True)
def table(context: typer.Context) -> None:
    """List the models."""
    if context.invoked_subcommand:
        return
    output = Table("name", "values", "MB", "from", "items", "top-1 / 5, %", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    output.columns[0].no_wrap = output.columns[-1].no_wrap = True
    for model in catalogue().values():
        output.add_row(
            model.name,
            f"{model.parameters / 1e6:.2f} M",
            f"{model.parameters * 4 / 1e6:.1f}",
            model.source,
            ", ".join(model.data),
            " / ".join(f"{value:.2f}" for value in model.baseline),
        )
    Console().print(output)


@app.command()
def build(name: str) -> None:
    """Make the ONNX file of a model in models/cache."""
    model = find(name)
    if model.build is None:
        print(f"{model.path} is committed; `python -m models.{name}` trains it anew")
        return
    CACHE.mkdir(exist_ok=True)
    model.build(model.path)
    print(model.path)


@app.command()
def evaluate(
    name: str,
    folder: Annotated[Path | None, typer.Argument(help="What `graphprune compile` wrote.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="An ONNX file to evaluate in place of the original.")] = None,
    runtime: Runtime = Runtime.onnxruntime,
    data: Annotated[str | None, typer.Option(help="Which items, where the model has several kinds.")] = None,
) -> None:
    """Measure the accuracy of a model, or of what pruning or compiling made of it, on the same labelled items."""
    if (runtime is Runtime.compiled) != (folder is not None):
        raise MissingError("a FOLDER goes with --runtime compiled, and --runtime compiled needs one")
    model = find(name)
    items = model.items(data)
    run = compiled_run(folder) if folder else onnxruntime_run(onnx or model.path)
    print(name, *model.evaluate(run, items), sep="  ")


def main() -> None:
    """Run the command line; what is missing is one line on the error stream."""
    try:
        app()
    except (MissingError, GraphpruneError) as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("graphprune", "models")):
            raise
        sys.exit(f"error: Python package '{error.name}' is missing: pip install 'graphprune[models]'")


if __name__ == "__main__":
    main()
