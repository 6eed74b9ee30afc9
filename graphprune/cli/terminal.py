"""What a verb says: tables and lines on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from graphprune.errors import visible
from graphprune.progress import watched

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Terminal:
    """How much is said. Colours follow the terminal and NO_COLOR.

    Attributes:
        json: the result as JSON on standard output and nothing else there.
        quiet: nothing but errors, and JSON where asked for.
        verbose: a line for every step, and tracebacks for errors.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def show(self, *things: Any) -> None:
        """Print tables and lines, unless JSON is printed instead or nothing is wanted."""
        if not (self.json or self.quiet):
            for thing in things:
                text = isinstance(thing, str)
                out().print(thing, *([] if text else [""]), sep="", highlight=False, soft_wrap=text)

    def data(self, thing: Any) -> None:
        """Print the result as JSON, where that is wanted."""
        if self.json:
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(thing), indent=2).decode() + "\n")

    @contextmanager
    def progress(self) -> Iterator[Announce]:
        """Tell of steps as they are announced: a bar with the time left on a terminal, a line each with -v."""
        console = err()
        if self.verbose or self.quiet or not console.is_terminal:
            yield (lambda text: console.print(visible(text), style="dim")) if self.verbose else (lambda text: None)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:

            def announce(text: str) -> None:
                for old in bar.task_ids:
                    bar.remove_task(old)
                bar.add_task(escape(visible(text if len(text) <= 28 else text[:27] + "…")), total=None)

            def hear(share: float) -> None:
                task = bar.tasks[-1]
                bar.update(
                    task.id, completed=max(share, task.completed), total=1.0
                )  # some parts are gone through twice

            announce("start")
            with watched(hear):
                yield announce


def out() -> Console:
    """Standard output as it is now; names and paths may look like markup."""
    return Console(markup=False, emoji=False)


def err() -> Console:
    """Standard error as it is now."""
    return Console(stderr=True, markup=False, emoji=False)


def fail(message: str, hint: str) -> None:
    """One line for an error, one for what to do."""
    console = err()
    console.print(f"error: {visible(' '.join(message.split()))}", style="red", highlight=False, soft_wrap=True)
    if hint:
        console.print(f"hint: {visible(hint)}", highlight=False, soft_wrap=True)
