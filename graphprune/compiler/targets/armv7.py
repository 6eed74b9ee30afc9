"""32-bit ARM under Linux with NEON and the hard-float calling convention: a Raspberry Pi 2, Cortex-A7 to A17.

NEON's float arithmetic flushes denormals to zero there, so values below 1e-38 are lost.
"""

from __future__ import annotations

from graphprune.compiler.targets import Target

TARGET = Target(
    "armv7",
    "armv7-linux-gnueabihf",
    "cortex-a7",
    ("neon", "vfp4"),
    lanes=4,
    registers=16,
    library="model.so",
    zig="arm-linux-gnueabihf.2.17",
    cpus={cpu: {} for cpu in ("cortex-a7", "cortex-a15", "cortex-a17")},
    unchecked=("neon", "vfp4"),
)
