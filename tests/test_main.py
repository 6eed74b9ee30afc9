"""Whatever ends a run: earlier results are as they were or replaced whole, no stray files, one line that says why."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"
RUN = [sys.executable, "-m", "graphprune"]
PRUNE = [*RUN, "prune", str(RESNET), "-o", "s.onnx", "--preset", "magnitude"]

COMPILE = [*RUN, "compile", str(RESNET), "-o", "out", "--preset", "magnitude"]


def state(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def strays(folder: Path) -> list[Path]:
    return list(folder.glob(".graphprune-*"))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """What the two commands below write, by their ratio."""
    found = {}
    for ratio in ("0.3", "0.6"):
        folder = tmp_path_factory.mktemp("whole")
        subprocess.run([*PRUNE, "--ratio", ratio], cwd=folder, check=True, capture_output=True)
        found[ratio] = state(folder)
    return found


def interrupt(folder: Path, number: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start to replace a result, and send a signal after a while."""
    process = subprocess.Popen([*PRUNE, "--ratio", "0.6", "--force"], cwd=folder, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(number)
    process.wait(60)
    return process


def check(folder: Path, results: dict[str, dict[str, bytes]]) -> None:
    """The old result or the new one, once the dead process' folders are settled by whoever writes next."""
    from graphprune.output import settle

    deadline = time.monotonic() + 20
    while True:  # the child of a killed process ends by itself
        settle(folder)
        if not strays(folder) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert state(folder) in results.values()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_the_old_result_or_the_new_one(tmp_path, results, number):
    for name, data in results["0.3"].items():
        (tmp_path / name).write_bytes(data)
    process = interrupt(tmp_path, number, 1.0)
    if number != signal.SIGKILL:
        assert process.returncode in (0, 130)
        assert not strays(tmp_path)
    check(tmp_path, results)


def test_results_may_lie_where_temporary_files_do(tmp_path, results):
    command = [*PRUNE, "--ratio", "0.3"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}, check=True, capture_output=True)
    assert state(tmp_path) == results["0.3"]


@pytest.mark.slow
def test_interrupted_at_sixty_moments(tmp_path, results):
    rng = random.Random(0)
    for _ in range(60):
        for name, data in results["0.3"].items():
            (tmp_path / name).write_bytes(data)
        interrupt(tmp_path, rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]), rng.uniform(0, 3))
        check(tmp_path, results)


def test_a_full_disk_is_named_and_leaves_the_old_result(tmp_path, results):
    for name, data in results["0.3"].items():
        (tmp_path / name).write_bytes(data)
    command = "ulimit -f 100; exec " + " ".join(PRUNE) + " --ratio 0.6 --force"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr.startswith("error: cannot write")
    assert state(tmp_path) == results["0.3"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A compiled folder, to be replaced by another."""
    folder = tmp_path_factory.mktemp("compiled")
    subprocess.run([*COMPILE, "--ratio", "0.3"], cwd=folder, check=True, capture_output=True)
    return folder / "out"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_compiled(folder: Path, old: dict[str, bytes]) -> None:
    """The old folder, byte by byte, or a whole new one; nothing beside it once it is settled."""
    from graphprune.output import settle

    deadline = time.monotonic() + 30
    while strays(folder) and time.monotonic() < deadline:
        settle(folder)
        time.sleep(0.1)
    assert [p.name for p in folder.iterdir()] == ["out"]
    found = tree(folder / "out")
    assert found.keys() == old.keys()
    if found != old:
        assert found["model.onnx"] != old["model.onnx"]
        assert all(found.values())
        subprocess.run(
            [*RUN, "verify", str(RESNET), "out"], cwd=folder, check=True, capture_output=True
        )  # plan and model belong together


def interrupt_compile(folder: Path, compiled: Path, number: int, seconds: float) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.copytree(compiled, folder / "out")
    process = subprocess.Popen([*COMPILE, "--ratio", "0.6", "--force"], cwd=folder, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(number)
    process.wait(60)
    if number != signal.SIGKILL:
        assert process.returncode in (0, 130)
        assert not strays(folder)
    check_compiled(folder, tree(compiled))


def test_what_native_code_makes_of_an_interrupt_is_one(monkeypatch):
    from graphprune.cli import verbs

    def loading() -> None:
        raise ImportError("initialization failed")

    monkeypatch.setattr(verbs, "app", loading)
    with pytest.raises(KeyboardInterrupt):
        verbs.main(lambda: True)
    with pytest.raises(SystemExit) as ended:
        verbs.main()
    assert ended.value.code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_compile_leaves_the_old_folder_or_the_new_one(tmp_path, compiled, number):
    interrupt_compile(tmp_path, compiled, number, 3.0)


@pytest.mark.slow
def test_compile_interrupted_at_twenty_moments(tmp_path, compiled):
    rng = random.Random(0)
    for _ in range(20):
        number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        interrupt_compile(tmp_path, compiled, number, rng.uniform(0, 10))


def test_a_full_disk_leaves_the_old_compiled_folder(tmp_path, compiled):
    shutil.copytree(compiled, tmp_path / "out")
    command = "ulimit -f 100; exec " + " ".join(COMPILE) + " --ratio 0.6 --force"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith("error: cannot write")
    assert tree(tmp_path / "out") == tree(compiled)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_work_that_does_not_hear_is_interrupted_all_the_same(tmp_path):
    """Native code may not look at signals for long: what then kills it is no want of memory."""
    deaf = "import signal, time; signal.signal = lambda *_: None; signal.pthread_sigmask(0, [2]); time.sleep(60)"
    script = (
        f"import sys, graphprune.__main__ as m; m.GRACE_SECONDS = 1; m._work = lambda scratch: exec({deaf!r}); m.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert process.stderr.read().startswith("error: interrupted")


def test_limits_and_crashes_end_in_one_line(tmp_path):
    slow = [*RUN, "bench", str(RESNET), "--seconds", "60"]
    done = subprocess.run([*slow, "--max-seconds", "0.2"], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (9, 2)
    assert "--max-seconds" in done.stderr
    process = subprocess.Popen(slow, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 20
    while not children.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int(children.read_text()), signal.SIGSEGV)
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert "native code crashed (SIGSEGV)" in process.stderr.read()
