"""Flags and config files from the declarations of ``options``."""

# Annotations are evaluated here, for their metadata.

import difflib
import functools
import inspect
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import tomli_w
import typer

from graphprune.cli.limits import limit
from graphprune.cli.terminal import Terminal
from graphprune.errors import UsageError
from graphprune.options import Option, declared, parts
from graphprune.output import claim_file, new_files
from graphprune.typed import memory

OWN = {"config", "save-config", "help"}  # what a config file cannot hold


class SayOptions(TypedDict, total=False):
    """What every verb takes: fields of ``Terminal``."""

    json: Annotated[bool, Option(False, "Print the result as JSON.", kind=bool)]
    quiet: Annotated[bool, Option(False, "Print nothing but errors.", short="q", kind=bool)]
    verbose: Annotated[bool, Option(False, "Name every step; tracebacks for errors.", short="v", kind=bool)]


class LimitOptions(TypedDict, total=False):
    """What every verb takes that runs a model: arguments of ``limits.limit``."""

    max_memory: Annotated[
        int | None,
        Option(
            None, "Fail beyond this much memory, e.g. 8GB; 0 is no limit. [all that is available]", "SIZE", read=memory
        ),
    ]
    max_seconds: Annotated[float, Option(86400.0, "End a run that takes longer; 0 is no limit.", "SECONDS", kind=float)]


class ConfigOptions(TypedDict, total=False):
    """Where options come from and go to besides flags."""

    config: Annotated[
        str | None,
        Option(None, "A TOML file with flags as keys; flags given here win.", "FILE.toml", kind=Path),
    ]
    save_config: Annotated[
        str | None,
        Option(None, "Write the options of this run to a config file.", "FILE.toml", kind=Path),
    ]


Verb = Callable[..., None]


def verb(app: typer.Typer) -> Callable[[Verb], Verb]:
    """Make a command of ``function(terminal, arguments..., **options: Unpack[Group])``.

    Flags are made of what the group declares, and of what every verb takes. A function without ``**options`` runs no
    model, and takes neither limits nor a config file.
    """

    def register(function: Verb) -> Verb:
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
            signature, (_, *own), table = parts(function)
            given = {name: option for name, (_, option) in table.items()}
            extra: tuple[type, ...] = (LimitOptions, ConfigOptions)
        else:
            signature = inspect.signature(function, eval_str=True)
            (_, *own), given, extra = list(signature.parameters.values()), {}, ()
        groups = {group: {n: o for n, (_, o) in declared(group).items()} for group in (*extra, SayOptions)}
        added = {name: option for options in (given, *groups.values()) for name, option in options.items()}
        keyword = inspect.Parameter.KEYWORD_ONLY
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        flags = [*own, *(_flag(name, option) for name, option in added.items())]

        @functools.wraps(function)
        def call(context: typer.Context, **typed: Any) -> None:
            values = {name: _read(option, typed.pop(name)) for name, option in added.items()}
            mine = {group: {name: values.pop(name) for name in options} for group, options in groups.items()}
            terminal = Terminal(**mine[SayOptions])
            if not terminal.verbose:  # numpy warns of every NaN that a model computes
                warnings.simplefilter("ignore")
            try:
                if path := mine.get(ConfigOptions, {}).get("save_config"):
                    _save(path, context, bool(typed.get("force")))
                if limits := mine.get(LimitOptions):
                    limit(**limits)
                function(terminal, **typed, **values)
            except Exception:
                if terminal.verbose:
                    traceback.print_exc()
                raise

        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [context, *(p.replace(kind=keyword) for p in flags)]
        )
        call.__annotations__ = {"context": typer.Context, **{p.name: p.annotation for p in flags}}
        app.command()(call)
        return call

    return register


def _flag(name: str, option: Option) -> inspect.Parameter:
    flag = "--" + (option.name or name.replace("_", "-"))
    info = typer.Option(
        flag,
        *([f"-{option.short}"] if option.short else []),
        help=option.help,
        metavar=option.metavar or None,
        autocompletion=option.choices,
        is_eager=name == "config",
        callback=_use_config if name == "config" else None,
        show_default=option.default not in (None, "", False),
    )
    kind: Any = list[str] if option.kind is list else option.kind
    default = [] if option.kind is list else option.default
    if default is None:
        kind = kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _read(option: Option, typed: Any) -> Any:
    return option.default if typed is None or typed == [] else option.read(typed)


# ------------------------------------------------------------------------------------------------------ config files


def _keys(context: typer.Context) -> dict[str, Any]:
    """The parameters a config file may set, by key: their flags' names."""
    named = ((max(p.opts, key=len), p) for p in context.command.params)
    return {flag[2:]: p for flag, p in named if flag.startswith("--") and flag[2:] not in OWN}


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the defaults of all flags from a file; called before any other flag is looked at."""
    if path is None or context.resilient_parsing:
        return path
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}", "--save-config writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "--save-config writes one") from error
    keys = _keys(context)
    for key, value in found.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1, 0.5)
            known = f"did you mean '{near[0]}'?" if near else f"keys: {', '.join(sorted(keys))}"
            raise UsageError(f"{path} sets '{key}', which `{context.info_name}` does not have", known)
        if isinstance(value, dict):
            raise UsageError(f"{path} has a table '{key}'", "a config file is a list of key = value")
    context.default_map = {keys[key].name: _fitting(keys[key], value) for key, value in found.items()}
    return path


def _fitting(parameter: Any, value: Any) -> Any:
    if parameter.multiple:
        return [str(v) for v in (value if isinstance(value, list) else [value])]
    return value if isinstance(value, bool | int) else str(value)


def _save(path: Path, context: typer.Context, force: bool) -> None:
    """Write what a run was asked for, as typed; what is not set is left out."""
    values: Iterator[tuple[str, Any]] = ((key, context.params.get(p.name)) for key, p in _keys(context).items())
    kept = {k: str(v) if isinstance(v, Path) else v for k, v in values if v or (v == 0 and v is not False)}
    claim_file(path, force, path.parent / "")
    text = f"# graphprune {context.info_name} --config {path.name}\n{tomli_w.dumps(kept)}"
    with new_files(path) as folder:
        (folder / path.name).write_text(text, "utf-8")
