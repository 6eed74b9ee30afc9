"""64-bit ARM under Linux: a Raspberry Pi 3 to 5, servers; tuned for Cortex-A72 unless another is named."""

from __future__ import annotations

from graphprune.compiler.targets import Target

CPUS = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "cortex-x1", "neoverse-n1")

TARGET = Target(
    "aarch64",
    "aarch64-linux-gnu",
    "cortex-a72",
    (),
    lanes=4,
    registers=32,
    library="model.so",
    zig="aarch64-linux-gnu.2.17",
    cpus={cpu: {} for cpu in CPUS},
)
