"""Running many entries: a process each, so that one that dies takes nothing with it; rows are kept as they come."""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from models.roster import Entry
from models.roster.measure import Row, measure
from models.zoo import MissingError

SETTLED = ("pruned", "nothing to prune")


def rows_in(file: Path) -> dict[str, Row]:
    """The latest row of every name in a file of JSON lines; none where there is no file."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    rows = [msgspec.json.decode(line, type=Row) for line in lines if line]
    return {row.name: row for row in rows}


def code_state() -> str:
    """The commit checked out, `+` after it where files differ from it; empty where git does not know this folder."""
    command = ["git", "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return told.stdout.strip()


def run(
    entries: Sequence[Entry], folder: Path, file: Path, *, jobs: int, limit: float, keep: bool = False
) -> Iterator[Row]:
    """Measure entries in parallel, and append each row to `file` as soon as it is there.

    Args:
        entries: which.
        folder: where graphs are made.
        file: of JSON lines.
        jobs: how many at a time.
        limit: seconds one entry may take.
        keep: whether graphs stay where all went well.

    Raises:
        MissingError: a package has to be installed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = code_state()
    # Processes forked from one that has imported everything start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["models.roster.measure", "torch"])
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_alone, context, entry, folder, limit, keep) for entry in entries]
        try:
            for done in as_completed(waiting):
                row = msgspec.structs.replace(done.result(), state=state)
                with file.open("ab") as lines:
                    lines.write(msgspec.json.encode(row) + b"\n")
                yield row
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(
    context: multiprocessing.context.ForkServerContext, entry: Entry, folder: Path, limit: float, keep: bool
) -> Row:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, entry, folder, keep))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(limit) else f"not done after {limit:.0f} s"
    except EOFError:
        process.join()
        found = f"its process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    if isinstance(found, MissingError):
        raise found
    return found if isinstance(found, Row) else Row(entry.name, entry.family, entry.made, "crashed", found)


def _send(to: Connection, entry: Entry, folder: Path, keep: bool) -> None:
    try:
        to.send(measure(entry, folder, keep=keep))
    except MissingError as error:
        to.send(error)
