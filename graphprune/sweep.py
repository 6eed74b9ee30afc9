"""Many prunings of one model, in parallel, in a folder that a later run goes on with.

Every point is a folder of its own under ``points/``, whole or absent; a point that is there is not made again. So a
sweep can be killed and run again, and widened with more amounts. What all points share is noted in ``sweep.json``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Unpack

import msgspec

from graphprune import api
from graphprune.benching import bench
from graphprune.errors import GraphpruneError, OutputError, TargetNotReachedError, UsageError, VerificationError
from graphprune.options import CutOptions, takes
from graphprune.output import MARK, claim_folder, new_files, new_folder
from graphprune.progress import track
from graphprune.report import Report, to_json, versions
from graphprune.report.pareto import Point, Table, choose, comma_separated, drawing, front, markdown

POINTS, SHARED, FAILURE, SCORE = "points", "sweep.json", "failure.json", "score.json"
# Options of ``prune`` that say how much, and what the folders of points call them.
AMOUNTS = {
    "ratio": "ratio",
    "target_macs": "macs",
    "target_params": "params",
    "target_size": "size",
    "target_latency": "latency",
    "target_latency_ms": "latency-ms",
}


@dataclass(frozen=True)
class Task:
    """A point to make: everything a process on any machine needs that sees the same files."""

    model: str
    folder: str
    targets: tuple[str, ...]
    options: Mapping[str, Any]


class Failure(msgspec.Struct, frozen=True):
    """Why a point cannot be made: its targets are out of reach, or its proof failed."""

    error: str


class Score(msgspec.Struct, frozen=True):
    """What an evaluation said of a model."""

    command: str
    score: float


@takes
def sweep(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    amounts: Sequence[tuple[str, float]],
    presets: Sequence[str] = ("obs",),
    targets: Sequence[str] = (),
    jobs: int = 1,
    ray: str = "",
    evaluation: str = "",
    max_error: float | None = None,
    min_score: float | None = None,
    fastest: bool = False,
    timing_seconds: float = 5.0,
    force: bool = False,
    announce: api.Announce = lambda text: None,
    **options: Unpack[CutOptions],
) -> Table:
    """Prune a model by every amount and preset, measure the results, and say which are worth having.

    Args:
        model: path of an ONNX file.
        folder: where to; made, or gone on with.
        amounts: pairs of an option of ``prune`` (a key of ``AMOUNTS``) and its value. Latencies are best measured with
            one job.
        presets: how units are scored.
        targets: what to compile every point for; none leaves them as ONNX files.
        jobs: points made at a time, each in a process of its own.
        ray: address of a Ray cluster whose machines see the same files, or ``local``; in place of ``jobs``.
        evaluation: a command whose last line of output is the score of the model put in place of ``{model}``; split
            into words as a shell does, run without one.
        max_error: choose among points with at most this relative output error.
        min_score: choose among points with at least this score.
        fastest: choose the fastest of them, not the smallest.
        timing_seconds: how long to time all points in turn, in this process, once they are made; 0 for not at all.
        force: begin anew where the folder holds another sweep.
        announce: called with what happens.

    Returns:
        All points, which is also written to the folder as JSON, CSV, Markdown and SVG.

    Raises:
        UsageError: nothing to vary, or an evaluation that cannot be run.
        OutputError: the folder holds something else.
        TargetNotReachedError: no point is within ``max_error`` and ``min_score``.
    """
    model, folder = Path(model), Path(folder)
    if not amounts or not presets:
        raise UsageError(
            "a sweep needs amounts to try", "--target-macs 80%,60%,40%, --ratio 20%,40%, --target-size 4MB,2MB"
        )
    if fastest and not timing_seconds:
        raise UsageError("the fastest is only found by timing", "--timing-seconds 5")
    if min_score is not None and not evaluation:
        raise UsageError("--min-score needs scores", '--eval "python my_eval.py {model}" makes them')
    if evaluation:
        _words(evaluation, model)
    _claim(folder, _shared(model, targets, options), force)
    tasks = [
        Task(
            str(model.resolve()),
            str(folder.resolve() / POINTS / f"{preset}-{AMOUNTS[name]}-{value:.12g}"),
            tuple(targets),
            {**options, "preset": preset, name: value},
        )
        for preset, (name, value) in product(presets, amounts)
    ]
    missing = [task for task in tasks if not _finished(Path(task.folder))]
    announce(f"{len(missing)} of {len(tasks)} points to make")
    _make_all(missing, jobs, ray)
    names = [Path(task.folder).name for task in tasks]
    points = [_read(folder / POINTS / name) for name in names]
    original_score = None
    if evaluation:
        announce("evaluate")
        original_score, *scores = _scores(
            evaluation, [model, *(folder / POINTS / p.name for p in points if p.kept)], folder, jobs
        )
        there = iter(scores)
        points = [msgspec.structs.replace(p, score=next(there)) if p.kept else p for p in points]
    original_ms = None
    if timing_seconds:
        announce("time")
        original_ms, points = _timed(model, folder, points, timing_seconds, options)
    points = front(points)
    best = choose(points, max_error=max_error, min_score=min_score, fastest=fastest)
    table = Table(model.stem, points, best.name if best else "", original_ms, original_score)
    with new_files(folder / "pareto.json") as beside:
        (beside / "pareto.json").write_bytes(to_json(table))
        (beside / "pareto.csv").write_text(comma_separated(table), "utf-8")
        (beside / "pareto.md").write_text(markdown(table), "utf-8")
        (beside / "pareto.svg").write_text(drawing(table), "utf-8")
    if best is None and (max_error is not None or min_score is not None):
        least = min((p.error for p in points), default=float("inf"))
        raise TargetNotReachedError(
            f"no point of {folder} is within the limits; the least error is {least:.2%}",
            "remove less, allow more, or see pareto.md",
        )
    return table


# ------------------------------------------------------------------------------------------------------- the points


def make(task: Task) -> None:
    """Make one point; also what other processes and machines are sent."""
    folder = Path(task.folder)
    try:
        if task.targets:
            api.compile(task.model, folder, targets=task.targets, timing_seconds=0, **task.options)
            return
        result = api.prune(task.model, **task.options)
        with new_folder(folder) as beside:
            result.save(beside / "model.onnx")
            (beside / MARK).write_bytes(to_json(result.report))
    except (TargetNotReachedError, VerificationError) as error:
        with new_folder(folder) as beside:
            (beside / FAILURE).write_bytes(to_json(Failure(str(error))))


def _finished(folder: Path) -> bool:
    return (folder / MARK).is_file() or (folder / FAILURE).is_file()


def _read(folder: Path) -> Point:
    if (folder / FAILURE).is_file():
        failure = msgspec.json.decode((folder / FAILURE).read_bytes(), type=Failure)
        return Point(folder.name, failure=failure.error)
    report = msgspec.json.decode((folder / MARK).read_bytes(), type=Report)
    return Point(folder.name, report.kept, report.after.bytes, report.fidelity)


def _make_all(tasks: Sequence[Task], jobs: int, ray: str) -> None:
    """Make points, in this process or in others; the first error ends it, points made so far stay."""
    if not tasks or (jobs == 1 and not ray):
        for task in track(tasks):
            make(task)
        return
    with _executor(jobs, ray) as executor:
        futures = as_completed([executor.submit(make, task) for task in tasks])
        try:
            for _ in track(tasks):
                next(futures).result()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _executor(jobs: int, ray: str) -> Executor:
    if ray:
        return Cluster(ray)
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)


class Cluster(Executor):
    """A Ray cluster as an executor."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError("a Ray cluster needs Ray", "pip install 'graphprune[ray]'") from error
        self._ray = ray
        ray.init(address=None if address == "local" else address, log_to_driver=False)

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function on some machine."""
        return self._ray.remote(function).remote(*args, **kwargs).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


def _end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is gone; Ctrl-C is for that one to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


# ---------------------------------------------------------------------------------------------------- what they share


def _shared(model: Path, targets: Sequence[str], options: CutOptions) -> dict[str, Any]:
    """What must be the same for all points of a folder."""
    try:
        with model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {model}: {error.strerror}", "") from error
    noted = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return {"model": digest, "graphprune": versions()["graphprune"], "targets": list(targets), **noted}


def _claim(folder: Path, shared: Mapping[str, Any], force: bool) -> None:
    note = folder / SHARED
    text = msgspec.json.format(msgspec.json.encode(shared), indent=2) + b"\n"
    if note.is_file() and (old := note.read_bytes()) != text:
        if not force:
            before = msgspec.json.decode(old)
            now = msgspec.json.decode(text)
            differs = next((name for name in now if before.get(name) != now[name]), "model")
            raise OutputError(
                f"{folder} holds another sweep: '{differs}' differs", "choose another with -o, or --force"
            )
        shutil.rmtree(folder / POINTS, ignore_errors=True)
    elif not note.is_file():
        claim_folder(folder, False)
    (folder / POINTS).mkdir(parents=True, exist_ok=True)
    with new_files(note) as beside:
        (beside / SHARED).write_bytes(text)


# ------------------------------------------------------------------------------------------------- scores and timings


def _words(command: str, model: Path) -> list[str]:
    """The words of a command with the model's path in place; no shell looks at them."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--eval '{command}' cannot be split into words: {error}", "quote as for a shell") from error
    if not any("{model}" in word for word in words):
        raise UsageError(f"--eval '{command}' does not say where the model goes", 'python my_eval.py "{model}"')
    return [word.replace("{model}", str(model)) for word in words]


def _scores(command: str, models: Sequence[Path], folder: Path, jobs: int) -> list[float]:
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(partial(_score, command, folder), models)
        return [score for _, score in zip(track(models), found, strict=True)]


def _score(command: str, folder: Path, model: Path) -> float:
    """The score of a point's folder or of the original file; a known one is read, not measured."""
    known = (model if model.is_dir() else folder) / SCORE
    with suppress(OSError, msgspec.DecodeError):
        if (old := msgspec.json.decode(known.read_bytes(), type=Score)).command == command:
            return old.score
    file = model / "model.onnx" if model.is_dir() else model
    try:
        done = subprocess.run(_words(command, file), capture_output=True, text=True, check=True)
        score = float(done.stdout.strip().splitlines()[-1])
    except OSError as error:
        raise UsageError(f"--eval '{command}' cannot be run: {error.strerror}", "is it installed?") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise GraphpruneError(f"--eval failed on {file} with exit code {error.returncode}: {last}") from error
    except (IndexError, ValueError) as error:
        raise UsageError(f"--eval printed no number for {file}", "its last line of output is the score") from error
    with new_files(known) as beside:
        (beside / SCORE).write_bytes(to_json(Score(command, score)))
    return score


def _timed(
    model: Path, folder: Path, points: Sequence[Point], seconds: float, options: CutOptions
) -> tuple[float, list[Point]]:
    """Median latencies of the original and of all points, taken in turn."""
    from graphprune.compiler.targets import machine

    made = {p.name: folder / POINTS / p.name for p in points if p.kept}
    paths = [path if (path / machine()).is_dir() else path / "model.onnx" for path in made.values()]
    timings = bench(
        [model, *paths],
        seconds=seconds,
        input_shapes=options["input_shapes"],
        dim_params=options["dim_params"],
        build=False,
        seed=options["seed"],
    ).timings
    found = {
        name: {
            by: timings[label].median_ms
            for by, label in (("onnxruntime", f"{path / 'model.onnx'}, onnxruntime"), ("compiled", f"{path}, compiled"))
            if label in timings
        }
        for name, path in made.items()
    }
    original = next(iter(timings.values())).median_ms
    return original, [msgspec.structs.replace(p, latency_ms=found.get(p.name, {})) for p in points]
