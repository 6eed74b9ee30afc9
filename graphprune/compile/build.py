"""Kernels and C to a shared library: LLVM through TVM, then the system's C compiler or zig's."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tvm
from tvm import tirx

from graphprune.compile.lower import llvm_target
from graphprune.compile.targets import Target
from graphprune.errors import CompileError


def write_object(module: tvm.IRModule, target: Target, path: Path) -> None:
    """Compile the PrimFuncs of `module` to an object file."""
    llvm = llvm_target(target)
    kernels = tvm.IRModule({v: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)})
    pipeline, finalize_host, _ = tirx.get_tir_pipeline("s_tir")
    with tvm.transform.PassContext(opt_level=3):
        kernels = pipeline(tirx.transform.BindTarget(llvm)(kernels))
        # Arguments come from static tables that fit by construction; checking them costs more code than the kernels.
        kernels = finalize_host()(tirx.transform.SkipAssert()(kernels))
        tvm.get_global_func("target.build.llvm")(kernels, llvm).write_to_file(str(path), "o")


def link(source: str, objects: list[Path], target: Target, library: Path) -> None:
    """Compile the C `source` and link it with `objects` into the shared `library`.

    Raises:
        CompileError: no C compiler here, or it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.c"
        path.write_text(source)
        flags = ["-O2", "-std=c11", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(library)]
        command = [*_compiler(target), *flags, str(path), *map(str, objects), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next(
            (line for line in done.stderr.splitlines() if "error" in line or "undefined" in line), done.stderr[-200:]
        )
        raise CompileError(f"linking {library.name} failed: {reason.strip()[:300]}")


def _compiler(target: Target) -> list[str]:
    """The command that compiles C for `target`: the system's `cc` at home, zig's anywhere."""
    if not target.zig and (cc := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        return [cc]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", *(["-target", target.zig] if target.zig else [])]
    raise CompileError("no C compiler to link the model with", 'pip install "graphprune[edge]"')
