"""Long short-term memory: all time steps of one direction in one call, the state in memory that stays in the cache.

What flows in has been multiplied for all steps at once (`x·Wᵀ + b`, a matrix product); what is left is one row by a
matrix per step, which is as fast as the matrix is read, and the gates.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.rows import exponential
from graphprune.compiler.kernels.vectors import Expr, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target

_WIDE = 8  # vectors of sums side by side


@dataclass(frozen=True)
class Lstm:
    """One direction of `steps` steps over `batch` sequences, `hidden` values of state; from the end if `backward`."""

    steps: int
    batch: int
    hidden: int
    backward: bool


def lstm_kernel(lstm: Lstm, target: Target) -> tirx.PrimFunc:
    """The function (gates, r, h, c, y, last h, last c).

    `gates` [steps, batch, 4·hidden] and `r` [hidden, 4·hidden] have the order input, output, forget, cell; h and c are
    the initial states [batch, hidden], y is [steps, batch, hidden].
    """
    hidden, lanes, wide = lstm.hidden, target.lanes, 4 * lstm.hidden
    state = (lstm.batch, hidden)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("lstm")
        T.func_attr({"tirx.noalias": True})
        gates, r, h, c, y, last_h, last_c = arguments(
            gates=(lstm.steps, lstm.batch, wide),
            r=(hidden, wide),
            h=state,
            c=state,
            y=(lstm.steps, lstm.batch, hidden),
            last_h=state,
            last_c=state,
        )
        sums = scratch(wide)

        def copy(to: Expr, to_at: Expr, source: Expr, at: Expr, count: int) -> None:
            with T.serial(0, count) as i:
                T.buffer_store(to, source[at + i], [to_at + i])

        copy(last_h, 0, h, 0, lstm.batch * hidden)
        copy(last_c, 0, c, 0, lstm.batch * hidden)
        with T.serial(0, lstm.steps) as number, T.serial(0, lstm.batch) as sequence:
            step = lstm.steps - 1 - number if lstm.backward else number
            row, before = (step * lstm.batch + sequence) * wide, sequence * hidden

            def multiply(first: Expr, vectors: int, lanes: int) -> None:
                """Sums of `vectors` vectors from column `first` on."""
                at = ramp(0, lanes)
                totals = [T.alloc_buffer((lanes,), "float32") for _ in range(vectors)]
                for v, total in enumerate(totals):
                    T.buffer_store(total, gates[ramp(row + first + v * lanes, lanes)], [at])
                with T.serial(0, hidden) as k:
                    value = splat(last_h[before + k], lanes)
                    for v, total in enumerate(totals):
                        weight = r[ramp(k * wide + first + v * lanes, lanes)]
                        T.buffer_store(total, total[at] + value * weight, [at])
                for v, total in enumerate(totals):
                    T.buffer_store(sums, total[at], [ramp(first + v * lanes, lanes)])

            strip = _WIDE * lanes
            with T.serial(0, wide // strip) as block:
                multiply(block * strip, _WIDE, lanes)
            with T.serial(0, wide % strip // lanes) as v:
                multiply(wide // strip * strip + v * lanes, 1, lanes)
            with T.serial(0, wide % lanes) as column:
                multiply(wide // lanes * lanes + column, 1, 1)

            def update(i: Expr, lanes: int) -> None:
                enter, leave, stay, new = (sums[ramp(g * hidden + i, lanes)] for g in range(4))
                at = ramp(before + i, lanes)
                kept = T.alloc_buffer((lanes,), "float32")
                cell = _sigmoid(stay, lanes) * last_c[at] + _sigmoid(enter, lanes) * _tanh(new, lanes)
                T.buffer_store(kept, cell, [ramp(0, lanes)])
                T.buffer_store(last_c, kept[ramp(0, lanes)], [at])
                T.buffer_store(last_h, _sigmoid(leave, lanes) * _tanh(kept[ramp(0, lanes)], lanes), [at])
                T.buffer_store(y, last_h[at], [ramp((step * lstm.batch + sequence) * hidden + i, lanes)])

            with T.serial(0, hidden // lanes) as v:
                update(v * lanes, lanes)
            with T.serial(0, hidden % lanes) as i:
                update(hidden // lanes * lanes + i, 1)
    return builder.get()


def _sigmoid(x: Expr, lanes: int) -> Expr:
    """By the exponential of a number that is not positive: e = exp(−|x|) gives 1 / (1 + e), or e / (1 + e) below 0."""
    zero, one = (splat(tirx.const(value, "float32"), lanes) for value in (0.0, 1.0))
    small = exponential(tirx.min(x, zero - x), lanes)
    return tirx.Select(x < zero, small, one) / (one + small)


def _tanh(x: Expr, lanes: int) -> Expr:
    two, one = (splat(tirx.const(value, "float32"), lanes) for value in (2.0, 1.0))
    return two * _sigmoid(two * x, lanes) - one
