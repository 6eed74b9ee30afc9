"""Browsers with WebGPU: kernels in WGSL, started by JavaScript."""

from __future__ import annotations

from graphprune.compiler.targets import Target

TARGET = Target("webgpu", "wgsl", "", (), lanes=1, registers=16, library="program.json", device="webgpu")
