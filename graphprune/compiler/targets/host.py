"""The machine we run on, with all its instructions."""

from __future__ import annotations

from graphprune.compiler.targets import Target, machine, shared_library


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
