"""Browsers, workers and Node: WebAssembly with SIMD, and further modules for engines with relaxed SIMD and threads.

A module with threads computes what the one of the same instructions does, so threads change no bit.
"""

from __future__ import annotations

from graphprune.compiler.targets import SHARED_MEMORY, Target

TARGET = Target(
    "wasm32",
    "wasm32-unknown-unknown",
    "generic",
    ("simd128",),
    lanes=4,
    registers=16,  # of x86-64
    ahead=True,  # as V8 does
    library="model.wasm",
    zig="wasm32-wasi",
    also={
        "model.relaxed.threads.wasm": ("relaxed-simd", *SHARED_MEMORY),
        "model.threads.wasm": SHARED_MEMORY,
        "model.relaxed.wasm": ("relaxed-simd",),  # multiply-add in one instruction
    },
)
