"""The options of every verb, declared once: what the library takes, and what the command line makes flags of.

A function that takes options says ``**options: Unpack[PruneOptions]`` and is decorated with ``takes``; ``flags`` makes
the flags and the keys of a config file from the same table. **Add an option** here, and use it in ``api``.
"""

# Annotations are evaluated here, for their metadata; names of other modules stay quoted, so that nothing is imported.

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypedDict, TypeVar, get_args

from graphprune.typed import (
    MEANS,
    PROVIDERS,
    TUNING,
    count,
    interval,
    means,
    milliseconds,
    numbers,
    provider,
    shapes,
    share,
    size,
    sizes,
    sparsity,
    tuning,
)

if TYPE_CHECKING:
    from graphprune.plan import Plan
    from graphprune.proof import Inputs

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name and the type it has in the library.

    Attributes:
        default: value where it is not given.
        help: one sentence.
        metavar: what stands for the value in the help; empty for a switch or where the type says enough.
        name: of the flag and the key, where that is not the option's own.
        short: a letter.
        kind: type of the value as typed: ``str``, ``list`` of them, ``int``, ``bool`` or ``Path``.
        read: what makes the library's value of a typed one; raises UsageError.
        choices: the values there are, for the shell to complete.
    """

    default: Any
    help: str
    metavar: str = ""
    name: str = ""
    short: str = ""
    kind: type = str
    read: Callable[[Any], Any] = lambda typed: typed
    choices: Callable[[], list[str]] | None = None


def _plan(path: Path) -> "Plan":
    from graphprune import plan

    return plan.read(path)


def _presets() -> list[str]:
    from graphprune.pipeline import PRESETS

    return sorted(PRESETS)


class ModelOptions(TypedDict, total=False):
    """At which sizes a model is looked at."""

    input_shapes: Annotated[
        Mapping[str, tuple[int, ...]] | None,
        Option(
            None,
            "Sizes of an input with symbolic dimensions; repeatable.",
            "NAME:1,3,224,224",
            name="input-shape",
            kind=list,
            read=shapes,
        ),
    ]
    dim_params: Annotated[
        Mapping[str, int] | None,
        Option(None, "Size of a symbolic dimension; repeatable.", "NAME=SIZE", name="dim-param", kind=list, read=sizes),
    ]


class InspectOptions(ModelOptions, total=False):
    """Which groups may be pruned."""

    include: Annotated[str | Sequence[str], Option("", "Prune only groups with an axis that matches.", "REGEX")]
    exclude: Annotated[str | Sequence[str], Option("", "Leave groups alone that have an axis that matches.", "REGEX")]
    inexact: Annotated[
        bool, Option(False, "Also cut what cannot be proved, such as normalised axes; it is measured.", kind=bool)
    ]


class DataOptions(TypedDict, total=False):
    """What a model is run on."""

    seed: Annotated[int, Option(0, "Of random scores, of calibration noise and of made-up inputs.", kind=int)]
    calibration_data: Annotated[
        "Inputs",
        Option(
            None,
            "Real inputs to calibrate on besides noise: an npz file, an array for each input, or a folder of pictures.",
            "PATH",
            kind=Path,
        ),
    ]
    input_range: Annotated[
        tuple[float, float] | None,
        Option(
            None,
            "Range of the model's floating-point inputs: what black and white are in pictures, where by default the"
            " usual one that fits its BatchNorms is taken; of noise, by default -2,2.",
            "LOW,HIGH",
            read=interval,
        ),
    ]
    mean: Annotated[
        tuple[float, ...] | None,
        Option(None, "Taken from every channel of a picture, black being 0 and white 1.", "R,G,B", read=numbers),
    ]
    std: Annotated[
        tuple[float, ...] | None,
        Option(None, "What every channel is divided by after that.", "R,G,B", read=numbers),
    ]


class RunOptions(ModelOptions, DataOptions, total=False):
    """What is run, and on what."""


class CutOptions(InspectOptions, DataOptions, total=False):
    """How a model is pruned, whatever the amount."""

    effort: Annotated[
        float,
        Option(
            1.0,
            "How long to look for inputs like real ones: 0 is seconds, 1 about a minute for a mobile network, more is"
            " better.",
            "N",
            kind=float,
        ),
    ]
    provider: Annotated[
        str,
        Option(
            "cpu",
            "What calibration runs the model on: `cpu`, or `cuda`, which rounds otherwise; a replay needs the same.",
            "NAME",
            read=provider,
            choices=lambda: [*PROVIDERS],
        ),
    ]
    vocab: Annotated[
        int | None,
        Option(None, "How many tokens a model that reads them knows, by default its whole embedding.", "N", kind=int),
    ]
    round_to: Annotated[int, Option(8, "Every axis that is cut ends at a multiple of this.", "N", kind=int)]
    held_out: Annotated[
        "Inputs",
        Option(None, "Real inputs to measure the error of the result on, in the same form.", "PATH", kind=Path),
    ]


class PruneOptions(CutOptions, total=False):
    """How a model is pruned, and how much of it."""

    remove_layers: Annotated[
        float | None,
        Option(None, "How many layers to remove as a whole, or which share of them, e.g. 2 or 10%.", "N", read=count),
    ]
    remove_caches: Annotated[
        bool, Option(False, "Take keys and values of removed layers out of the interface.", kind=bool)
    ]
    remove_experts: Annotated[
        float | None,
        Option(
            None,
            "How many experts to remove from every mixture of them, or which share, e.g. 2 or 25%; their routers share"
            " out among the others.",
            "N",
            read=count,
        ),
    ]

    ratio: Annotated[
        float | None,
        Option(None, "Share of units to remove from every group; 0 prunes nothing.", "SHARE", read=share),
    ]
    target_macs: Annotated[
        float | None, Option(None, "Share of multiply-accumulates to keep, e.g. 80%.", "SHARE", read=share)
    ]
    target_params: Annotated[float | None, Option(None, "Share of parameters to keep, e.g. 50%.", "SHARE", read=share)]
    target_size: Annotated[
        float | None,
        Option(None, "Bytes of weights to keep at most, e.g. 4MB, or a share of them, e.g. 50%.", "SIZE", read=size),
    ]
    target_latency: Annotated[
        float | None,
        Option(
            None,
            "Share of the latency to keep at most, e.g. 60%, of the original in onnxruntime or, by `compile`, compiled"
            " likewise; measured on one thread.",
            "SHARE",
            read=share,
        ),
    ]
    target_latency_ms: Annotated[float | None, Option(None, "The same in milliseconds.", "MS", read=milliseconds)]
    latency_by: Annotated[
        str,
        Option(
            "best",
            "What a compiled model gives up for a latency: `channels`, `zeros` or `both`; `best` tries all three and"
            " takes what moves the outputs least.",
            "MEANS",
            read=means,
            choices=lambda: [*MEANS],
        ),
    ]
    sparsity: Annotated[
        float | str | None,
        Option(
            None,
            "Share of multiply-accumulates to meet a zero, which compiled models skip, or a pattern such as 2:4, which"
            " leaves two of every four. Latency targets of compiled models find it themselves; 0 forbids that.",
            "SHARE|N:M",
            read=sparsity,
        ),
    ]
    max_error: Annotated[
        float | None,
        Option(None, "Fail, and write nothing, beyond this error of the outputs, e.g. 20%.", "SHARE", read=share),
    ]
    preset: Annotated[
        str,
        Option("obs", "How units are scored and refitted: a name in docs/command-line.md.", "NAME", choices=_presets),
    ]
    passes: Annotated[
        str | None, Option(None, 'A whole pipeline, e.g. "magnitude, uniform(ratio=0.3), cut, clean".', "TEXT")
    ]
    plan: Annotated[
        "Plan | None", Option(None, "Replay the removals of a plan.json.", "PLAN.json", kind=Path, read=_plan)
    ]


# Which of them say what to remove.
AMOUNTS = (
    *("ratio", "target_macs", "target_params", "target_size", "target_latency", "target_latency_ms"),
    *("sparsity", "remove_layers", "remove_experts", "passes", "plan"),
)


def asked(options: PruneOptions) -> bool:
    """Whether something says what to remove."""
    return any(options[name] is not None for name in AMOUNTS)  # type: ignore[literal-required]


class BuildOptions(TypedDict, total=False):
    """How kernels are chosen, and what is kept between runs."""

    tune: Annotated[
        str,
        Option(
            "off",
            "`quick` times a handful of kernels for each layer and remembers the times; `off` trusts the cost model.",
            "HOW",
            read=tuning,
            choices=lambda: [*TUNING],
        ),
    ]
    cache_dir: Annotated[
        "Path | None",
        Option(None, "Where compiled models and times are kept. [GRAPHPRUNE_CACHE_DIR, ~/.cache]", "DIR", kind=Path),
    ]
    no_cache: Annotated[bool, Option(False, "Keep nothing, and use nothing that was kept.", kind=bool)]


class CompileOptions(PruneOptions, BuildOptions, total=False):
    """How a model is pruned, and how the result is compiled."""


class BenchOptions(RunOptions, BuildOptions, total=False):
    """What is run and on what, and how it is compiled."""


def declared(group: Any) -> dict[str, tuple[Any, Option]]:
    """Type and declaration of every option of a group, by name."""
    return {name: get_args(annotation) for name, annotation in group.__annotations__.items()}


def parts(
    function: Callable[..., Any],
) -> tuple[inspect.Signature, list[inspect.Parameter], dict[str, tuple[Any, Option]]]:
    """Signature of a function with ``**options: Unpack[Group]``, its other parameters, and what the group declares."""
    signature = inspect.signature(function, eval_str=True)
    *own, options = signature.parameters.values()
    (group,) = get_args(options.annotation)
    return signature, own, declared(group)


def takes(function: Callable[P, R]) -> Callable[P, R]:
    """Give a function with ``**options: Unpack[Group]`` its options: names are checked, defaults filled in.

    Its signature and documentation list them, for ``help`` and for editors.
    """
    signature, own, table = parts(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    given = [inspect.Parameter(n, keyword, default=o.default, annotation=t) for n, (t, o) in table.items()]
    full = signature.replace(parameters=[*own, *given])

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = full.bind(*args, **kwargs)
        bound.apply_defaults()
        return function(*bound.args, **bound.kwargs)

    call.__signature__ = full  # type: ignore[attr-defined]
    lines = [f"    {name}: {option.help[0].lower()}{option.help[1:]}" for name, (_, option) in table.items()]
    call.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n\nOptions:\n" + "\n".join(lines) + "\n"
    return call
