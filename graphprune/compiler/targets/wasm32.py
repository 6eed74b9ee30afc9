"""Browsers, workers and Node: WebAssembly with SIMD, and a second module for engines that have relaxed SIMD too."""

from __future__ import annotations

from graphprune.compiler.targets import Target

TARGET = Target(
    "wasm32",
    "wasm32-unknown-unknown",
    "generic",
    ("simd128",),
    lanes=4,
    registers=11,  # as many as leave 8 or 9 accumulators; V8 spills beyond
    library="model.wasm",
    zig="wasm32-wasi",
    also={"model.relaxed.wasm": ("relaxed-simd",)},  # multiply-add in one instruction
)
