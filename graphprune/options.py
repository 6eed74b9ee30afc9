"""The options that verbs share, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def share(text: str) -> float:
    """``80%`` or ``0.8`` as a number."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is neither a percentage like 80% nor a share like 0.8") from error


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME:1,3,224,224`` as a name and its sizes."""
    name, _, sizes = text.rpartition(":")
    try:
        return name, tuple(int(s) for s in sizes.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not of the form NAME:1,3,224,224") from error


def size(text: str) -> tuple[str, int]:
    """``NAME=SIZE`` as a pair."""
    name, _, number = text.partition("=")
    try:
        return name, int(number)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not of the form NAME=SIZE") from error


def memory(text: str) -> int:
    """``8GB``, ``512MB`` or a number of bytes."""
    digits = text.rstrip("kMGTB")
    try:
        return int(float(digits) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[text[len(digits) :].rstrip("B")])
    except (ValueError, OverflowError, KeyError) as error:
        raise typer.BadParameter(f"'{text}' is no amount of memory like 8GB") from error


MaxMemory = Annotated[
    int | None,
    typer.Option(
        parser=memory,
        metavar="SIZE",
        show_default="what is available",
        help="Fail beyond this much memory, e.g. 8GB; 0 is no limit.",
    ),
]
MaxSeconds = Annotated[float, typer.Option(min=0, help="End a run that takes longer; 0 is no limit.")]
ModelPath = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL.onnx", show_default=False)]
InputShape = Annotated[
    list[str],
    typer.Option(
        "--input-shape", help="Sizes of an input with symbolic dimensions; repeatable.", metavar="NAME:1,3,224,224"
    ),
]
DimParam = Annotated[
    list[str], typer.Option("--dim-param", help="Size of a symbolic dimension; repeatable.", metavar="NAME=SIZE")
]
Ratio = Annotated[
    float | None,
    typer.Option(parser=share, metavar="SHARE", help="Share of units to remove from every group; 0 prunes nothing."),
]
TargetMacs = Annotated[
    float | None, typer.Option(parser=share, metavar="SHARE", help="Share of multiply-accumulates to keep, e.g. 80%.")
]
TargetParams = Annotated[
    float | None, typer.Option(parser=share, metavar="SHARE", help="Share of parameters to keep, e.g. 50%.")
]
RoundTo = Annotated[int, typer.Option(min=1, help="Every axis that is cut ends at a multiple of this.")]
Preset = Annotated[str, typer.Option(help="How units are scored: obs, magnitude, l1, slimming, random.")]
Passes = Annotated[
    str | None, typer.Option(help='A whole pipeline, e.g. "magnitude, uniform(ratio=0.3), cut, clean".', metavar="TEXT")
]
PlanPath = Annotated[
    Path | None, typer.Option("--plan", help="Replay the removals of a plan.json.", metavar="PLAN.json")
]
Include = Annotated[str, typer.Option(help="Prune only groups with an axis that matches.", metavar="REGEX")]
Exclude = Annotated[str, typer.Option(help="Leave groups alone that have an axis that matches.", metavar="REGEX")]
Seed = Annotated[int, typer.Option(help="Of random scores, of calibration noise and of the inputs of the proofs.")]
CalibrationData = Annotated[
    Path | None,
    typer.Option(help="Real inputs to calibrate on besides noise: an array for each input, by name.", metavar="X.npz"),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Name every step; tracebacks for errors.")]
