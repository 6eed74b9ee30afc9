"""Recurrent layers: all time steps of one direction in one call, the state in memory that stays in the cache.

What flows in has been multiplied for all steps at once (`x·Wᵀ + b`, a matrix product); what is left is one row by a
matrix per step, which is as fast as the matrix is read, and the gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.rows import exponential
from graphprune.compiler.kernels.vectors import Expr, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target

_WIDE = 8  # vectors of sums side by side


@dataclass(frozen=True)
class Recurrent:
    """One direction of `steps` steps over `batch` sequences, `hidden` values of state; from the end if `backward`."""

    steps: int
    batch: int
    hidden: int
    backward: bool

    @property
    def state(self) -> tuple[int, int]:
        """Shape of a state."""
        return self.batch, self.hidden

    def each_step(self, emit: Callable[[Expr, Expr], None]) -> None:
        """Every sequence of every step in order: its row of [steps, batch, …], and where its state begins."""
        with T.serial(0, self.steps) as number, T.serial(0, self.batch) as sequence:
            step = self.steps - 1 - number if self.backward else number
            emit(step * self.batch + sequence, sequence * self.hidden)


def lstm_kernel(layer: Recurrent, target: Target) -> tirx.PrimFunc:
    """The function (gates, r, h, c, y, last h, last c): long short-term memory.

    `gates` [steps, batch, 4·hidden] and `r` [hidden, 4·hidden] have the order input, output, forget, cell; h and c are
    the initial states [batch, hidden], y is [steps, batch, hidden].
    """
    hidden, wide = layer.hidden, 4 * layer.hidden
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("lstm")
        T.func_attr({"tirx.noalias": True})
        gates, r, h, c, y, last_h, last_c = arguments(
            gates=(layer.steps, layer.batch, wide),
            r=(hidden, wide),
            h=layer.state,
            c=layer.state,
            y=(layer.steps, layer.batch, hidden),
            last_h=layer.state,
            last_c=layer.state,
        )
        sums = scratch(wide)
        _copy(h, last_h, layer.batch * hidden)
        _copy(c, last_c, layer.batch * hidden)

        def step(row: Expr, before: Expr) -> None:
            _multiply(
                row=lambda k: last_h[before + k],
                matrix=r,
                shape=(hidden, wide),
                columns=(0, wide),
                start=lambda column, lanes: gates[ramp(row * wide + column, lanes)],
                sums=sums,
                lanes=target.lanes,
            )

            def update(i: Expr, lanes: int) -> None:
                enter, leave, stay, new = (sums[ramp(g * hidden + i, lanes)] for g in range(4))
                at = ramp(before + i, lanes)
                kept = T.alloc_buffer((lanes,), "float32")
                cell = _sigmoid(stay, lanes) * last_c[at] + _sigmoid(enter, lanes) * _tanh(new, lanes)
                T.buffer_store(kept, cell, [ramp(0, lanes)])
                T.buffer_store(last_c, kept[ramp(0, lanes)], [at])
                T.buffer_store(last_h, _sigmoid(leave, lanes) * _tanh(kept[ramp(0, lanes)], lanes), [at])
                T.buffer_store(y, last_h[at], [ramp(row * hidden + i, lanes)])

            _each(hidden, target.lanes, update)

        layer.each_step(step)
    return builder.get()


def gru_kernel(layer: Recurrent, reset_after: bool, target: Target) -> tirx.PrimFunc:
    """The function (gates, r, bias, h, y, last h): gated recurrent unit.

    `gates` [steps, batch, 3·hidden] and `r` [hidden, 3·hidden] have the order update, reset, new; h is the initial
    state [batch, hidden], y is [steps, batch, hidden]. The reset gate multiplies the state, or if `reset_after` what
    the matrix makes of it, with `bias` [hidden] added.
    """
    hidden, wide = layer.hidden, 3 * layer.hidden
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("gru")
        T.func_attr({"tirx.noalias": True})
        gates, r, bias, h, y, last_h = arguments(
            gates=(layer.steps, layer.batch, wide),
            r=(hidden, wide),
            bias=(hidden,),
            h=layer.state,
            y=(layer.steps, layer.batch, hidden),
            last_h=layer.state,
        )
        sums, reset = scratch(wide), scratch(hidden)
        _copy(h, last_h, layer.batch * hidden)

        def step(row: Expr, before: Expr) -> None:
            def entering(column: Expr, lanes: int) -> Expr:
                return gates[ramp(row * wide + column, lanes)]

            def multiply(state: Callable[[Expr], Expr], columns: tuple[int, int], start: _Start) -> None:
                _multiply(state, r, (hidden, wide), columns, start, sums, target.lanes)

            def old(k: Expr) -> Expr:
                return last_h[before + k]

            def gate(number: int, i: Expr, lanes: int) -> Expr:
                return _sigmoid(sums[ramp(number * hidden + i, lanes)], lanes)

            def forget(i: Expr, lanes: int) -> None:
                T.buffer_store(reset, gate(1, i, lanes) * last_h[ramp(before + i, lanes)], [ramp(i, lanes)])

            multiply(old, (0, 2 * hidden), entering)
            if reset_after:
                multiply(old, (2 * hidden, wide), lambda column, lanes: bias[ramp(column - 2 * hidden, lanes)])
            else:
                _each(hidden, target.lanes, forget)
                multiply(lambda k: reset[k], (2 * hidden, wide), entering)

            def update(i: Expr, lanes: int) -> None:
                at, there, new = ramp(before + i, lanes), ramp(0, lanes), T.alloc_buffer((lanes,), "float32")
                value = sums[ramp(2 * hidden + i, lanes)]
                if reset_after:
                    value = entering(2 * hidden + i, lanes) + gate(1, i, lanes) * value
                T.buffer_store(new, _tanh(value, lanes), [there])
                T.buffer_store(last_h, new[there] + gate(0, i, lanes) * (last_h[at] - new[there]), [at])
                T.buffer_store(y, last_h[at], [ramp(row * hidden + i, lanes)])

            _each(hidden, target.lanes, update)

        layer.each_step(step)
    return builder.get()


_Start = Callable[[Expr, int], Expr]


def _multiply(
    row: Callable[[Expr], Expr],
    matrix: Expr,
    shape: tuple[int, int],
    columns: tuple[int, int],
    start: _Start,
    sums: Expr,
    lanes: int,
) -> None:
    """`sums[column] = start(column) + Σ_k row(k) · matrix[k, column]` for columns from the first to beyond the last."""
    depth, wide = shape
    begin, end = columns

    def some(first: Expr, vectors: int, lanes: int) -> None:
        at = ramp(0, lanes)
        totals = [T.alloc_buffer((lanes,), "float32") for _ in range(vectors)]
        for v, total in enumerate(totals):
            T.buffer_store(total, start(first + v * lanes, lanes), [at])
        with T.serial(0, depth) as k:
            value = splat(row(k), lanes)
            for v, total in enumerate(totals):
                weight = matrix[ramp(k * wide + first + v * lanes, lanes)]
                T.buffer_store(total, total[at] + value * weight, [at])
        for v, total in enumerate(totals):
            T.buffer_store(sums, total[at], [ramp(first + v * lanes, lanes)])

    strips, rest = divmod(end - begin, _WIDE * lanes)
    with T.serial(0, strips) as strip:
        some(begin + strip * (_WIDE * lanes), _WIDE, lanes)
    _each(rest, lanes, lambda column, lanes: some(end - rest + column, 1, lanes))


def _copy(source: Expr, to: Expr, count: int) -> None:
    with T.serial(0, count) as i:
        T.buffer_store(to, source[i], [i])


def _each(count: int, lanes: int, emit: Callable[[Expr, int], None]) -> None:
    """Whole vectors of `count` places, then what is left one by one."""
    with T.serial(0, count // lanes) as v:
        emit(v * lanes, lanes)
    with T.serial(0, count % lanes) as i:
        emit(count // lanes * lanes + i, 1)


def _sigmoid(x: Expr, lanes: int) -> Expr:
    """By the exponential of a number that is not positive: e = exp(−|x|) gives 1 / (1 + e), or e / (1 + e) below 0."""
    zero, one = (splat(tirx.const(value, "float32"), lanes) for value in (0.0, 1.0))
    small = exponential(tirx.min(x, zero - x), lanes)
    return tirx.Select(x < zero, small, one) / (one + small)


def _tanh(x: Expr, lanes: int) -> Expr:
    two, one = (splat(tirx.const(value, "float32"), lanes) for value in (2.0, 1.0))
    return two * _sigmoid(two * x, lanes) - one
