"""The machines a model can be compiled for: one record each.

A target names the LLVM triple, the processor and its features, and what follows from them for the kernels: how many
float32 lanes a vector register has and how many registers there are. Adding a target is adding a record to `TARGETS`.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graphprune.errors import CompileError, UsageError

_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "x86-64": "x86-64", "arm64": "aarch64", "aarch64": "aarch64"}
C_COMPILERS = ("cc", "gcc", "clang")  # what a system calls its own
ZIG = "ziglang"  # the package of a C compiler and linker for every target
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
        library: file name of the shared library, or of the WebAssembly module.
        zig: triple for `zig cc -target`; empty builds for the machine we run on.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    library: str
    zig: str = ""

    @property
    def wasm(self) -> bool:
        """Whether JavaScript loads the model, not C."""
        return self.triple.startswith("wasm")


def machine() -> str:
    """Sub-folder name of the machine we run on: `x86-64`, `aarch64`, or Python's own name for anything else."""
    name = platform.machine().lower()
    return _MACHINES.get(name, name)


def shared_library() -> str:
    """File name of a shared library on the machine we run on."""
    return "model" + _SUFFIXES.get(sys.platform, ".so")


def host() -> Target:
    """The machine we run on, as LLVM sees it."""
    import tvm

    triple = str(tvm.get_global_func("target.llvm_get_system_triple")())
    cpu = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    llvm = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
    present = tvm.get_global_func("target.llvm_get_cpu_features")(llvm)
    name = machine()
    if name == "x86-64":
        features = tuple(f for f in ("avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq") if f in present)
        lanes, registers = (16, 32) if "avx512vl" in features else (8, 16) if "fma" in features else (4, 16)
    else:
        features, lanes, registers = (), 4, 32 if name == "aarch64" else 16
    return Target(name, triple, cpu, features, lanes, registers, shared_library())


# Any x86-64 of the last ten years, on any Linux since 2014 (glibc 2.17).
X86_64 = Target(
    "x86-64", "x86_64-linux-gnu", "x86-64-v3", ("avx2", "fma"), 8, 16, "model.so", zig="x86_64-linux-gnu.2.17"
)
AARCH64 = Target("aarch64", "aarch64-linux-gnu", "cortex-a72", (), 4, 32, "model.so", zig="aarch64-linux-gnu.2.17")
# As many registers as give 8 accumulators: V8 spills beyond.
WASM32 = Target("wasm32", "wasm32-unknown-unknown", "generic", ("simd128",), 4, 10, "model.wasm", zig="wasm32-wasi")

TARGETS: dict[str, Callable[[], Target]] = {
    "host": host,
    "x86-64": lambda: X86_64,
    "aarch64": lambda: AARCH64,
    "wasm32": lambda: WASM32,
}


def resolve(name: str) -> Target:
    """The target called `name`.

    Raises:
        CompileError: no such target.
    """
    if name not in TARGETS:
        raise CompileError(f"unknown target {name!r}", f"targets: {', '.join(sorted(TARGETS))}")
    return TARGETS[name]()


def resolve_all(names: Iterable[str]) -> dict[str, Target]:
    """The targets called `names`, each ready to compile for.

    Raises:
        CompileError: no such target, or something to compile for it is not installed.
        UsageError: two targets of one folder.
    """
    found: dict[str, Target] = {}
    for name in names:
        target = resolve(name)
        if twin := next((n for n, t in found.items() if t.name == target.name), None):
            raise UsageError(f"targets {twin!r} and {name!r} both go to the folder {target.name}", "give one of them")
        if lacks := missing(target):
            hint = 'pip install "graphprune[edge]"' if lacks == [ZIG] else "graphprune targets"
            raise CompileError(f"target {name!r} needs {' and '.join(lacks)}", hint)
        found[name] = target
    return found


def missing(target: Target) -> list[str]:
    """What compiling for `target` needs and is not installed here."""
    import tvm

    lacks = []
    architecture = (target.triple or machine()).partition("-")[0]
    if architecture.replace("arm64", "aarch64") not in tvm.get_global_func("target.llvm_get_targets")():
        lacks.append(f"TVM with LLVM's back end for {architecture}")
    at_home = not target.zig and any(map(shutil.which, C_COMPILERS))
    if not at_home and not importlib.util.find_spec(ZIG):
        lacks.append(ZIG)
    return lacks
