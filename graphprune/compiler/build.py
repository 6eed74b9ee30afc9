"""Kernels and C to what a target's users link or load: LLVM through TVM, then the system's C compiler or zig's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from graphprune.compiler import nvrtc
from graphprune.compiler.emit import Image, Source
from graphprune.compiler.lower import llvm_target
from graphprune.compiler.targets import C_COMPILERS, SHARED_MEMORY, ZIG, Target
from graphprune.errors import CompileError

_FLAGS = ["-O2", "-std=c11", "-fvisibility=hidden"]
_LIBRARY = ["-shared", "-s", "-pthread"]
# Android brings the C library; nothing of another may be linked in, and pages may be of 16 kB.
_ANDROID = ["-nostdlib", "-Wl,-z,undefs", "-Wl,--no-as-needed", "-Wl,-z,max-page-size=16384"]
# A reactor without a main: only what module.c.in exports, and no import.
_MODULE = ["-mexec-model=reactor", "-Wl,--strip-all"]
# Memory comes from whoever loads the module, up to nearly 4 GB, and a thread gets a stack and variables of its own.
_THREADS = [
    "-mcpu=generic+atomics+bulk_memory",
    "-Wl,--shared-memory,--import-memory,--max-memory=4294901760,--export=__wasm_init_tls,--export=__stack_pointer",
]
_SYSTEM = {"cc": C_COMPILERS, "ar": ("ar", "llvm-ar")}  # what a system calls its tools
STATIC_LIBRARY = "libmodel.a"


def built(module: tvm.IRModule, target: Target) -> Any:
    """The PrimFuncs of `module` as machine code: TVM's module, whose functions can be called where it runs here."""
    llvm = llvm_target(target)
    kernels = tvm.IRModule({v: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)})
    pipeline, finalize_host, _ = tirx.get_tir_pipeline("s_tir")
    with tvm.transform.PassContext(opt_level=3):
        kernels = pipeline(tirx.transform.BindTarget(llvm)(kernels))
        # Arguments come from static tables that fit by construction; checking them costs more code than the kernels.
        kernels = finalize_host()(tirx.transform.SkipAssert()(kernels))
        return tvm.get_global_func("target.build.llvm")(kernels, llvm)


def write_object(module: tvm.IRModule, target: Target, path: Path) -> None:
    """Compile the PrimFuncs of `module` to an object file."""
    built(module, target).write_to_file(str(path), "o")


def write_images(source: str, target: Target, folder: Path) -> list[Image]:
    """Compile CUDA for every generation of `target`, and to text for what comes after the last; files of `folder`."""
    generations = sorted((int(feature.removeprefix("sm_")) for feature in target.features), reverse=True)
    kinds = [(generation, "sm") for generation in generations] + [(generations[0], "compute")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = pool.map(lambda kind: nvrtc.compile_cuda(source, f"{kind[1]}_{kind[0]}"), kinds)
        images = []
        for (generation, kind), code in zip(kinds, codes, strict=True):
            images.append(Image(generation, kind == "compute", f"{kind}_{generation}.image"))
            (folder / images[-1].file).write_bytes(code)
    return images


def link(source: Source, kernels: Path | None, target: Target, folder: Path, library: str = "") -> None:
    """Compile `source` and link it with the object file `kernels`, where it has such.

    `folder`, which has `weights.bin` and whatever else the source includes, gets a WebAssembly module, or a shared
    library with its header and, where there is an archiver, a static library. `library` is the file name of one that
    is not the target's first.

    Raises:
        CompileError: no C compiler here, or it failed.
    """
    compiler = _tool("cc", target)
    if compiler is None:
        raise CompileError(f"no C compiler to link {target.name} with", 'pip install "graphprune[edge]"')
    folder = folder.resolve()  # the compiler runs elsewhere
    objects = [] if kernels is None else [str(kernels.resolve())]
    output = ["-o", str(folder / (library or target.library))]
    with tempfile.TemporaryDirectory() as scratch:
        model, code = Path(scratch) / "model.c", Path(scratch) / "model.o"
        model.write_text(source.model)
        if target.wasm:
            threads = _THREADS if set(SHARED_MEMORY) <= {*target.also.get(library, ())} else []
            _run([*compiler, *_FLAGS, *_MODULE, *threads, *output, str(model), *objects], target, folder)
            return
        (folder / "model.h").write_text(source.header)
        _run(
            [*compiler, *_FLAGS, "-fPIC", "-pthread", f"-I{folder}", "-c", "-o", str(code), str(model)], target, folder
        )
        system = _android(compiler, Path(scratch), target) if "android" in target.triple else ["-lm"]
        system += ["-ldl"] if target.device else []
        _run([*compiler, *_LIBRARY, *output, str(code), *objects, *system], target, folder)
        if archiver := _tool("ar", target):
            _run([*archiver, "rcs", str(folder / STATIC_LIBRARY), str(code), *objects], target, folder)


def _android(compiler: list[str], scratch: Path, target: Target) -> list[str]:
    """What a library for Android is linked with: empty libraries of the names that the system's have."""
    (scratch / "empty.c").touch()
    names = ["libc.so", "libm.so"]
    for name in names:
        _run([*compiler, "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", name, "empty.c"], target, scratch)
    return [*_ANDROID, *(str(scratch / name) for name in names)]


def _run(command: list[str], target: Target, folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        reason = next(
            (line for line in done.stderr.splitlines() if "error" in line or "undefined" in line), done.stderr[-200:]
        )
        raise CompileError(f"linking {target.library} failed: {reason.strip()[:300]}")


def _tool(tool: str, target: Target) -> list[str] | None:
    """The command of a compiler or archiver for `target`: the system's at home, zig's anywhere."""
    if not target.zig and (found := next(filter(None, map(shutil.which, _SYSTEM[tool])), None)):
        return [found]
    if importlib.util.find_spec(ZIG):
        flags = ["-target", target.zig] if target.zig and tool == "cc" else []
        return [sys.executable, "-m", "ziglang", tool, *flags]
    return None
