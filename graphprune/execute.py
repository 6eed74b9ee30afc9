"""How an artefact of any target is run on this machine, or why it is not.

What is built for this machine or its graphics processor runs in this process; a WebAssembly module runs in Node, a
program for WebGPU in Chromium, a Linux library of another processor in a small static program under QEMU. Arrays go
there and back in files.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from graphprune import chromium, runtime
from graphprune.compiler import targets
from graphprune.compiler.manifest import Manifest
from graphprune.errors import CompileError

Arrays = Mapping[str, np.ndarray]
HERE = "this machine"
NODE = "node"
CHROMIUM = "chromium"


@dataclass(frozen=True)
class Execution:
    """How one artefact runs.

    Attributes:
        by: what runs it: ``this machine``, ``node``, ``qemu-aarch64-static``; or ``not run here: needs …``.
        run: outputs of inputs, by name; None where nothing here can run it.
        times: milliseconds of single calls on inputs, measured for so many seconds by what runs it; None where it
            cannot, or where they would say nothing about the target.
        profile: seconds of every kernel of the manifest on inputs; None where they cannot be told apart from here.
    """

    by: str
    run: Callable[[Arrays], dict[str, np.ndarray]] | None = None
    times: Callable[[Arrays, float], list[float]] | None = None
    profile: Callable[[Arrays], np.ndarray] | None = None

    @property
    def in_process(self) -> bool:
        """Whether timing ``run`` times the model."""
        return self.by == HERE


class TargetInfo(msgspec.Struct, frozen=True):
    """A target as seen from here: what compiling for it lacks, what runs its artefacts, and what that lacks."""

    name: str
    triple: str
    cpu: str
    cpus: list[str]
    missing: list[str]
    runner: str
    runner_missing: list[str]


def survey() -> list[TargetInfo]:
    """Every target."""
    found = []
    for name in targets.available():
        target = targets.resolve(name)
        runner, lacks = _runner(target.name, target.triple, target.library)
        missing = targets.missing(target)
        found.append(TargetInfo(name, target.triple, target.cpu, list(target.cpus), missing, runner, lacks))
    return found


def execution(folder: Path) -> Execution:
    """How the artefact in `folder` runs.

    Calling what is returned raises CompileError where the artefact, not its inputs, is at fault.
    """
    manifest = runtime.read_manifest(folder)
    runner, lacks = _runner(manifest.target.name, manifest.target.triple, manifest.library)
    if lacks:
        return Execution(f"not run here: needs {' and '.join(lacks)}")
    if runner == CHROMIUM:
        return Execution(runner, partial(in_chromium, folder))
    if runner == NODE:
        return Execution(runner, partial(_in_node, folder, manifest), partial(_times_in_node, folder, manifest))
    if runner != HERE:
        return Execution(runner, partial(_emulated, runner, folder, manifest))
    try:
        library = runtime.load(folder)
        return Execution(runner, library, profile=library.profile)
    except runtime.UnsupportedProcessorError as error:
        return Execution(f"not run here: {error}")


def _runner(name: str, triple: str, library: str) -> tuple[str, list[str]]:
    """What runs the artefacts of a target here, and what of it is not installed."""
    if (name, library) == (targets.machine(), targets.shared_library()):
        return HERE, []
    if name == "webgpu":
        return CHROMIUM, [] if chromium.browser() else [CHROMIUM]
    if name == "cuda":
        return HERE, [] if cuda_present() else ["an NVIDIA graphics processor"]
    if library.endswith(".wasm"):
        return NODE, [] if shutil.which(NODE) else [NODE]
    if library.endswith(".so"):
        architecture = triple.partition("-")[0]
        emulator = f"qemu-{'arm' if architecture.startswith('armv') else architecture}-static"
        lacks = [] if shutil.which(emulator) else [emulator]
        return emulator, lacks if importlib.util.find_spec(targets.ZIG) else [*lacks, targets.ZIG]
    return "", [f"a machine of {name}"]


def cuda_present() -> bool:
    """Whether NVIDIA's driver is here, and a graphics processor with it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _in_node(folder: Path, manifest: Manifest, inputs: Arrays) -> dict[str, np.ndarray]:
    outputs, _ = _with_files(partial(_node, folder, 0), manifest, inputs)
    return outputs


def in_chromium(folder: Path, inputs: Arrays) -> dict[str, np.ndarray]:
    """Outputs of the JavaScript artefact in `folder`, run in a page.

    Raises:
        CompileError: Chromium is not installed, or the page failed.
    """
    outputs, _ = _with_files(partial(chromium.drive, folder), runtime.read_manifest(folder), inputs)
    return outputs


def _times_in_node(folder: Path, manifest: Manifest, inputs: Arrays, seconds: float) -> list[float]:
    _, printed = _with_files(partial(_node, folder, seconds), manifest, inputs)
    return json.loads(printed)


def _node(folder: Path, seconds: float, scratch: Path) -> str:
    with resources.as_file(resources.files("graphprune").joinpath("drive.mjs")) as driver:
        return _output([NODE, str(driver), str(folder), str(scratch), str(seconds)])


def _emulated(emulator: str, folder: Path, manifest: Manifest, inputs: Arrays) -> dict[str, np.ndarray]:
    def run(scratch: Path) -> str:
        program = scratch / "drive"
        triple = re.sub(
            "^armv7|-gnu|-android[0-9]*$", lambda m: {"armv7": "arm"}.get(m[0], "-musl"), manifest.target.triple
        )
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", triple]
        with resources.as_file(resources.files("graphprune").joinpath("drive.c")) as driver:
            code = [str(driver), str(folder / "libmodel.a")]
            _output([*zig, "-static", "-O1", f"-I{folder}", *code, "-lm", "-o", str(program)])
        return _output([emulator, str(program), str(folder), str(scratch)])

    outputs, _ = _with_files(run, manifest, inputs)
    return outputs


def _with_files(run: Callable[[Path], str], manifest: Manifest, inputs: Arrays) -> tuple[dict[str, np.ndarray], str]:
    """Outputs of a program that reads and writes arrays in the folder it is given, and what it printed."""
    with tempfile.TemporaryDirectory() as scratch:
        for i, value in enumerate(manifest.inputs):
            np.ascontiguousarray(inputs[value.name]).tofile(Path(scratch) / f"input_{i}")
        printed = run(Path(scratch))
        files = [(value, Path(scratch) / f"output_{i}") for i, value in enumerate(manifest.outputs)]
        return {v.name: np.fromfile(file, v.dtype).reshape(v.shape) for v, file in files}, printed


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _, _, reason = done.stderr.partition("error: ")
        first = (reason or f"exit code {done.returncode}").partition("\n")[0]
        raise CompileError(f"{Path(command[0]).name} failed: {first[:300]}")
    return done.stdout
