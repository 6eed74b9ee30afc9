"""Multiply-adds that touch no memory: what a thread can reach at most."""

from __future__ import annotations

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.vectors import arguments, ramp
from graphprune.compiler.targets import Target

SUMS = 10  # independent, to hide the latency of a multiply-add


def peak_kernel(steps: int, target: Target) -> tirx.PrimFunc:
    """The function (x [2 vectors], y [SUMS vectors]) that sets y to x₀·y + x₁, `steps` times."""
    lanes = target.lanes
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("peak")
        T.func_attr({"tirx.noalias": True})
        x, y = arguments(x=(2 * lanes,), y=(SUMS * lanes,))
        sums = [T.alloc_buffer((lanes,), "float32") for _ in range(SUMS)]
        at = ramp(0, lanes)
        for i, total in enumerate(sums):
            T.buffer_store(total, y[ramp(i * lanes, lanes)], [at])
        with T.serial(0, steps):
            for total in sums:
                T.buffer_store(total, total[at] * x[at] + x[ramp(lanes, lanes)], [at])
        for i, total in enumerate(sums):
            T.buffer_store(y, total[at], [ramp(i * lanes, lanes)])
    return builder.get()
