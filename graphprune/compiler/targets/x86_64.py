"""Any x86-64 of the last ten years, on any Linux since 2014 (glibc 2.17)."""

from __future__ import annotations

from graphprune.compiler.targets import Target

AVX2 = ("avx2", "fma")
AVX512 = (*AVX2, "avx512f", "avx512vl", "avx512bw", "avx512dq")

TARGET = Target(
    "x86-64",
    "x86_64-linux-gnu",
    "x86-64-v3",
    AVX2,
    lanes=8,
    registers=16,
    library="model.so",
    zig="x86_64-linux-gnu.2.17",
    cpus={
        "x86-64-v2": {"features": ("sse4.2",), "lanes": 4},
        "x86-64-v3": {},
        "x86-64-v4": {"features": AVX512, "lanes": 16, "registers": 32},
    },
)
