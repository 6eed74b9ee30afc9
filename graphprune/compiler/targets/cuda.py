"""NVIDIA's graphics processors from Ampere on, under Linux on x86-64: a C library that finds the driver when it runs.

Kernels are compiled for the generations in `features`, and once more for those to come, whose driver translates them.
"""

from __future__ import annotations

from graphprune.compiler.targets import Target

TARGET = Target(
    "cuda",
    "x86_64-linux-gnu",
    "x86-64",
    ("sm_80", "sm_90"),
    lanes=4,
    registers=16,
    library="model.so",
    zig="x86_64-linux-gnu.2.17",
    cpus={arch: {"features": (arch,)} for arch in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")},
    device="cuda",
)
