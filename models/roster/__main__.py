"""Command line of the roster: `python -m models.roster`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.roster import roster, runs, table
from models.zoo import CACHE, HERE, MissingError

FILE = CACHE / "roster.jsonl"
TABLE = HERE / "roster.md"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Regular expression of the names to run.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 2,
    again: Annotated[bool, typer.Option("--again", help="Also those that have a good row already.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the graphs in models/cache/roster.")] = False,
    limit: Annotated[float, typer.Option(help="Seconds one graph may take.")] = 1800,
    names: Annotated[bool, typer.Option("--list", help="Only say what there is.")] = False,
    out: Annotated[Path, typer.Option(help="The table.")] = TABLE,
) -> None:
    """Prune every graph of the roster by half, prove the law, and write a table of what came of it."""
    console = Console()
    entries = roster()
    chosen = [entry for entry in entries.values() if re.search(only, entry.name)]
    if names:
        for entry in chosen:
            console.print(f"{entry.name}  {entry.made}", highlight=False, soft_wrap=True)
        return
    settled = {name for name, row in runs.rows_in(FILE).items() if row.outcome in runs.SETTLED and not again}
    todo = [entry for entry in chosen if entry.name not in settled]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bad = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("roster", total=len(todo))
        for row in runs.run(todo, CACHE / "roster", FILE, jobs=jobs, limit=limit, keep=keep):
            bad += row.outcome not in runs.SETTLED
            progress.console.print(table.line(row), highlight=False, soft_wrap=True)
            progress.advance(task)
    rows = runs.rows_in(FILE)
    out.write_text(table.markdown([rows[name] for name in entries if name in rows], [*entries]), "utf-8")
    console.print(f"{out}: {len(rows.keys() & entries.keys())} of {len(entries)} graphs")
    if bad:
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        app()
    except MissingError as error:
        sys.exit(f"error: {error}")
