"""What artefacts are compiled for: one file per machine, and what a package registers under `graphprune.targets`.

A target says what LLVM calls a machine, and what follows from it for the kernels: how many float32 lanes a vector
register has and how many registers there are. **Add a target** in a file beside this one and name it in `TARGETS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.machinery import ModuleSpec
from typing import Any

from graphprune.errors import CompileError, UsageError
from graphprune.plugins import installed

_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "x86-64": "x86-64", "arm64": "aarch64", "aarch64": "aarch64"}
C_COMPILERS = ("cc", "gcc", "clang")  # what a system calls its own
ZIG = "ziglang"  # the package of a C compiler and linker for every target
NVRTC = "nvidia.cuda_nvrtc"  # the package of NVIDIA's compiler for kernels
SHARED_MEMORY = ("atomics", "bulk-memory")  # what a WebAssembly module needs whose instances work on one memory
_SUFFIXES = {"linux": ".so", "darwin": ".dylib", "win32": ".dll"}


@dataclass(frozen=True)
class Target:
    """What the compiler must know of a machine.

    Attributes:
        name: the artefact's sub-folder, for example `x86-64`.
        triple: LLVM target triple; empty means the machine we run on.
        cpu: LLVM processor name.
        features: processor features a model built for this target may use; checked before the model runs.
        lanes: float32 values in one vector register.
        registers: vector registers.
        ahead: whether all that a step of a product multiplies is loaded first, and so takes registers at the same time.
        library: file name of the shared library, or of the WebAssembly module.
        zig: triple for `zig cc -target`; empty builds for the machine we run on.
        cpus: processors that `--mcpu` takes, each with the fields it has otherwise.
        also: further modules built of the same kernels and weights, each with the features it adds; the loader takes
            the first whose features are there.
        unchecked: features that every machine of the triple has, or that nothing on the device can ask for.
        device: what runs the kernels where that is no processor: `cuda` or `webgpu`.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    library: str
    zig: str = ""
    cpus: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    device: str = ""
    ahead: bool = False

    @property
    def wasm(self) -> bool:
        """Whether the model is a WebAssembly module."""
        return self.triple.startswith("wasm")

    @property
    def javascript(self) -> bool:
        """Whether JavaScript loads the model, not C."""
        return self.wasm or self.device == "webgpu"


def machine() -> str:
    """Sub-folder name of the machine we run on: `x86-64`, `aarch64`, or Python's own name for anything else."""
    name = platform.machine().lower()
    return _MACHINES.get(name, name)


def shared_library() -> str:
    """File name of a shared library on the machine we run on."""
    return "model" + _SUFFIXES.get(sys.platform, ".so")


def _host() -> Target:
    from graphprune.compiler.targets.host import host

    return host()


def _here(module: str) -> Callable[[], Target]:
    return lambda: importlib.import_module(f"{__name__}.{module}").TARGET


TARGETS: dict[str, Callable[[], Target]] = {
    "host": _host,
    "x86-64": _here("x86_64"),
    "aarch64": _here("aarch64"),
    "aarch64-android": _here("android"),
    "armv7": _here("armv7"),
    "wasm32": _here("wasm32"),
    "cuda": _here("cuda"),
    "webgpu": _here("webgpu"),
}


@cache
def _offered() -> dict[str, Callable[[], Target]]:
    """Targets of installed packages: a `Target`, or a function that makes one.

    Raises:
        UsageError: a name is taken, or what is registered is no target.
    """
    found: dict[str, Callable[[], Target]] = {}
    for name, offer in installed("graphprune.targets", "target", frozenset(TARGETS)).items():
        target = offer if isinstance(offer, Target) else offer() if callable(offer) else None
        if not isinstance(target, Target):
            raise UsageError(f"what is registered as target '{name}' is no Target", "repair or uninstall that package")
        found[name] = lambda target=target: target  # type: ignore[misc]
    return found


def available() -> dict[str, Callable[[], Target]]:
    """Every target by name: graphprune's own, then those of installed packages."""
    return {**TARGETS, **_offered()}


def resolve(name: str, mcpu: str = "") -> Target:
    """The target called `name`, for the processor `mcpu` where that is given.

    Raises:
        CompileError: no such target, or not this processor of it.
    """
    known = available()
    if name not in known:
        raise CompileError(f"unknown target {name!r}", f"targets: {', '.join(sorted(known))}")
    target = known[name]()
    if not mcpu:
        return target
    if mcpu not in target.cpus:
        there = ", ".join(target.cpus) or "none but its own"
        raise CompileError(f"target {name!r} has no processor {mcpu!r}", f"processors: {there}")
    return replace(target, cpu=mcpu, **target.cpus[mcpu])


def resolve_all(names: Iterable[str], mcpu: str = "") -> dict[str, Target]:
    """The targets called `names`, each ready to compile for; `mcpu` goes to those that have such a processor.

    Raises:
        CompileError: no such target, no target with such a processor, or something to compile for it is not installed.
        UsageError: two targets of one folder.
    """
    names = list(names)
    takes = {name for name in names if mcpu in resolve(name).cpus} or set(names)
    found: dict[str, Target] = {}
    for name in names:
        target = resolve(name, mcpu if name in takes else "")
        if twin := next((n for n, t in found.items() if t.name == target.name), None):
            raise UsageError(f"targets {twin!r} and {name!r} both go to the folder {target.name}", "give one of them")
        if lacks := missing(target):
            extra = "edge" if lacks == [ZIG] else "cuda" if target.device and set(lacks) <= {ZIG, NVRTC} else ""
            hint = f'pip install "graphprune[{extra}]"' if extra else "graphprune targets"
            raise CompileError(f"target {name!r} needs {' and '.join(lacks)}", hint)
        found[name] = target
    return found


def package(name: str) -> ModuleSpec | None:
    """Where a package lies; ``None`` where it, or one that it is part of, is not installed."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


def missing(target: Target) -> list[str]:
    """What compiling for `target` needs and is not installed here."""
    import tvm

    lacks = []
    if target.device and tvm.get_global_func(f"target.build.{target.device}", allow_missing=True) is None:
        lacks.append(f"TVM with its back end for {target.device}")
    if target.device == "cuda" and package(NVRTC) is None:
        lacks.append(NVRTC)
    if target.device == "webgpu":
        return lacks
    architecture = (target.triple or machine()).partition("-")[0]
    architecture = "arm" if architecture.startswith("armv") else architecture.replace("arm64", "aarch64")
    if architecture not in tvm.get_global_func("target.llvm_get_targets")():
        lacks.append(f"TVM with LLVM's back end for {architecture}")
    at_home = not target.zig and any(map(shutil.which, C_COMPILERS))
    if not at_home and package(ZIG) is None:
        lacks.append(ZIG)
    return lacks
