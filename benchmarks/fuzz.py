"""Hostile input to the command line, at random: `python -m benchmarks.fuzz --cases 10000 --jobs 2`.

Each case damages a real model (bytes, or fields of its protobuf), a plan, a pipeline, calibration data or a config
file, and runs one verb on it in a forked process with limits on memory and time. It must end in time with a documented
exit code, say why in at most two lines, and leave no stray file. Native crashes inside onnx or onnxruntime are counted
apart: the command line survives them in one line. Failed proofs are shown, because a pass of ours may be the cause.
The same seed gives the same cases.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy starts threads, which a fork would lose

import numpy as np
import typer
from typer.testing import CliRunner

import graphprune
import graphprune.__main__
from benchmarks.damage import damage_bytes, damage_fields, damage_json, damage_text
from graphprune import api, pipeline  # noqa: F401  (imported once, for all forks)
from graphprune import plan as plans
from graphprune.cli import tables, verbs  # noqa: F401  (imported once, for all forks)
from graphprune.errors import VerificationError

MODELS = Path(__file__).parents[1] / "models"
REAL = ("fashion_resnet20", "fashion_mobilenet", "fashion_densenet")
SECONDS, MEMORY = 30, 3 << 30
# When a case counts as hanging; the command line ends itself long before, unless other work leaves it no processor.
HANGING_SECONDS = 600
GIVEN = {"m.onnx", "p.json", "x.json", "x.npz", "c.toml", "out", "err"}
WRITTEN = {"s.onnx", "s.plan.json", "s.onnx.data", "r.html"}
CONFIG = b"""ratio = "50%"
preset = "magnitude"
round-to = 8
exclude = "head|shortcut"
input-shape = ["image:1,1,28,28"]
seed = 3
calibration-data = "x.npz"
json = true
"""


def bases() -> list[tuple[str, bytes]]:
    """Names and bytes of real models: this repository's networks, and onnx's own case of every operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = [(case.name, case.model.SerializeToString()) for case in collect_testcases(None)]
    networks = [(name, (MODELS / f"{name}.onnx").read_bytes()) for name in REAL]
    return networks * (len(cases) // len(networks) // 2) + cases  # a third of all cases damages a network


# -------------------------------------------------------------------------------------------------------------- a case


@dataclass
class Case:
    """A command line in a folder of its own.

    Attributes:
        number: which, counted from 0.
        kind: what was damaged.
        arguments: of ``graphprune``.
        folder: holds the files it names.
    """

    number: int
    kind: str
    arguments: list[str]
    folder: Path


Maker = Callable[[int, Path], Case]


def maker(seed: int) -> Maker:
    """A function that writes the files of case ``number`` into a folder."""
    models = bases()
    networks = models[: len(REAL)]
    replay = {name: _plan(MODELS / f"{name}.onnx") for name in REAL}
    CliRunner().invoke(verbs.app, ["inspect", str(MODELS / f"{REAL[0]}.onnx")])  # imports what forks need not again
    gc.collect()
    gc.freeze()  # and what is there now need not be gone through, or copied, by any of them

    def make(number: int, folder: Path) -> Case:
        rng = random.Random(f"{seed}:{number}")
        kind = rng.choices(["bytes", "fields", "plan", "pipeline", "data", "config"], [20, 50, 15, 7, 3, 5])[0]
        name, data = rng.choice(models if kind in ("bytes", "fields") else networks)
        if kind == "bytes":
            data = damage_bytes(data, rng)
        elif kind == "fields":
            data = damage_fields(data, rng)
        (folder / "m.onnx").write_bytes(data)
        arguments = ["prune", "m.onnx", "-o", "s.onnx"]
        if kind == "plan":
            (folder / "p.json").write_bytes(damage_json(replay[name], rng))
            arguments += ["--plan", "p.json"]
            if rng.random() < 0.3:
                (folder / "x.json").write_bytes(replay[rng.choice(REAL)])
                arguments = ["plan", "merge", *rng.sample(["p.json", "x.json"], 2), "-o", "s.plan.json"]
                arguments += ["--model", "m.onnx"] if rng.random() < 0.5 else []
        elif kind == "pipeline":
            choice = "uniform(ratio=0.5, multiple=8)"
            text = pipeline.preset(rng.choice(list(pipeline.PRESETS)), choice, calibration="count=2")
            arguments += ["--passes", damage_text(text, rng)]
        elif kind == "config":
            (folder / "c.toml").write_bytes(damage_bytes(CONFIG, rng))
            arguments += ["--config", "c.toml"]
        elif kind == "data":
            np.savez(folder / "x.npz", image=np.zeros((8, 1, 28, 28), np.float32))
            (folder / "x.npz").write_bytes(damage_bytes((folder / "x.npz").read_bytes(), rng))
            arguments += ["--calibration-data", "x.npz", "--ratio", "0.3"]
        elif rng.random() < 0.4:
            arguments = ["inspect", "m.onnx", *(["--json"] if rng.random() < 0.5 else [])]
        else:
            preset = rng.choices(["magnitude", "l1", "slimming", "random", "obs"], [5, 1, 1, 1, 1])[0]
            amount = rng.choice([["--ratio", "0.5"], ["--target-macs", "60%"], []])
            arguments += [*amount, "--preset", preset, "--round-to", rng.choice(["1", "8"])]
            arguments += ["--report", "r.html"] if rng.random() < 0.2 else []
        return Case(number, f"{kind} of {name}", arguments, folder)

    return make


def _plan(path: Path) -> bytes:
    return plans.to_json(graphprune.prune(path, ratio=0.5, preset="magnitude").plan)


def start(case: Case) -> int:
    """Run a case as the command line would, in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(case.folder / name, os.O_WRONLY | os.O_CREAT), stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(case.folder)
    limit = ["--max-seconds", str(SECONDS), "--max-memory", str(MEMORY)]
    sys.argv = ["graphprune", *case.arguments, *limit]
    tempfile.tempdir = str(case.folder)
    try:
        graphprune.__main__.main()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    finally:
        os._exit(99)


def judge(case: Case, status: int) -> tuple[str, str]:
    """What a case came to, and what it said; ``defect: …`` is what must not be."""
    said = (case.folder / "err").read_text("utf-8", "replace")
    written = {p.name for p in case.folder.iterdir()} - GIVEN
    code = os.waitstatus_to_exitcode(status)
    lines = said.splitlines()
    if code < 0:
        return f"defect: ended by {signal.Signals(-code).name}", said
    if "Traceback" in said or "this is a defect" in said or "and report it" in said:
        return "defect: unforeseen exception", said
    if "native code crashed" in said:
        return "native crash, survived", said
    if code not in range(10):
        return f"defect: exit code {code}", said
    if "\x1b" in said + (case.folder / "out").read_text("utf-8", "replace"):
        return "defect: escape characters printed", said
    if code and code != 2 and not 1 <= len(lines) <= 2:
        return f"defect: {len(lines)} lines", said
    if code and written:
        return f"defect: left {sorted(written)}", said
    if not code and not written <= WRITTEN:
        return f"defect: left {sorted(written)}", said
    return "failed proof, exit code 6" if code == VerificationError.exit_code else f"exit code {code}", said


def main(
    cases: Annotated[int, typer.Option(help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes at a time.")] = 2,
    first: Annotated[int, typer.Option(help="Number of the first case, to repeat one.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Folder for the files of cases that show a defect.")] = None,
) -> None:
    """Run the cases, print what they came to, and fail if any shows a defect."""
    began = time.monotonic()
    found = run(range(first, first + cases), seed, jobs, keep)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for outcome, count in sorted(found.items()):
        print(f"{count:7,}  {outcome}")
    print(
        f"{found.total():7,}  cases, {used.ru_utime + used.ru_stime:.0f} s of CPU in {time.monotonic() - began:.0f} s"
    )
    sys.exit(any(outcome.startswith("defect") for outcome in found))


def run(numbers: range, seed: int = 0, jobs: int = 1, keep: Path | None = None) -> Counter[str]:
    """Run the cases; how many came to what."""
    make = maker(seed)
    found: Counter[str] = Counter()
    running: dict[int, tuple[Case, float]] = {}
    left = iter(numbers)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        while True:
            while len(running) < jobs and (number := next(left, None)) is not None:
                folder = Path(root) / str(number)
                folder.mkdir()
                case = make(number, folder)
                running[start(case)] = (case, time.monotonic())
            if not running:
                return found
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                for hanging, (_, began) in running.items():
                    if time.monotonic() - began > HANGING_SECONDS:
                        os.killpg(hanging, signal.SIGKILL)
                time.sleep(0.002)
                continue
            case, _ = running.pop(child)
            outcome, said = judge(case, status)
            found[outcome] += 1
            if outcome.startswith(("defect", "native", "failed")):
                print(f"case {case.number}, {case.kind}: {outcome}\n  graphprune {' '.join(case.arguments)[:300]!r}")
                print("".join(f"    {line}\n" for line in said.splitlines()[-6:]), end="", flush=True)
                if keep:
                    shutil.copytree(case.folder, keep / str(case.number), dirs_exist_ok=True)
            shutil.rmtree(case.folder)


if __name__ == "__main__":
    typer.run(main)
