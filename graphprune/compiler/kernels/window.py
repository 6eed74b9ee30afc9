"""Channel-wise sliding windows: depthwise convolution, maximum and average pooling.

One channel at a time is copied into a padded plane, which stays in the first-level cache; each output row is a few
vectors, and every tap of the window is one vector load from the plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.padding import Window, emit_border, emit_image
from graphprune.compiler.kernels.vectors import Share, arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target

Mode = Literal["depthwise", "max", "average"]
_LOWEST = float(np.finfo(np.float32).min)
_LATENCY = 8  # independent sums that hide the latency of a multiply-add
_STATEMENTS = 400  # multiply-adds written out


@dataclass(frozen=True)
class Windowed:
    """A window over each of `channels` channels of `batch` images.

    `depthwise` multiplies with a filter per output channel, `multiplier` of which read the same input channel.
    """

    mode: Mode
    batch: int
    channels: int
    multiplier: int
    window: Window
    epilogue: Epilogue


def average_weights(window: Window, count_include_pad: bool) -> np.ndarray:
    """What to multiply each sum by, [height, width] of the output: one over the number of values it holds."""
    if count_include_pad:
        return np.full(window.out, 1 / (window.kernel[0] * window.kernel[1]), np.float32)

    def inside(axis: int) -> np.ndarray:
        start = np.arange(window.out[axis])[:, None] * window.stride[axis] - window.pad[axis]
        taps = start + np.arange(window.kernel[axis])[None] * window.dilation[axis]
        return ((taps >= 0) & (taps < window.image[axis])).sum(1)

    return (1 / np.maximum(np.outer(inside(0), inside(1)), 1)).astype(np.float32)


def window_kernel(op: Windowed, target: Target) -> tirx.PrimFunc:
    """The function (x, parameters, y).

    Parameters are filters [channels·multiplier, taps], bias and residual if any for `depthwise`, `average_weights` for
    `average`, nothing for `max`.
    """
    window = op.window
    (height, width), (rows, columns) = window.image, window.out
    taps = [window.tap(i, j) for i in range(window.kernel[0]) for j in range(window.kernel[1])]
    block = _block(op, target)
    lanes = block.lanes
    filters = op.channels * op.multiplier
    depthwise = op.mode == "depthwise"
    identity = _LOWEST if op.mode == "max" else 0.0
    out = (op.batch, filters, rows, columns)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name(op.mode)
        T.func_attr({"tirx.noalias": True})
        x, weight, bias, scale, residual, y = arguments(
            x=(op.batch, op.channels, height, width),
            weight=(filters, len(taps)) if depthwise else None,
            bias=(filters,) if depthwise else None,
            scale=window.out if op.mode == "average" else None,
            residual=out if op.epilogue.residual else None,
            y=out,
        )
        padded = scratch(window.plane + lanes) if window.copied else None
        if padded is not None:
            emit_border(window, padded, 0, identity)

        def combine(value: Any, source: Any, channel: Any, tap: int) -> Any:
            if weight is not None:
                return value + splat(weight[channel * len(taps) + tap], lanes) * source
            return tirx.max(value, source) if op.mode == "max" else value + source

        def write(image: Any, place: Any, value: Any, lanes: int) -> None:
            at = ramp(image * (rows * columns) + place, lanes)
            if scale is not None:
                value = value * scale[ramp(place, lanes)]
            if residual is not None:
                value = value + residual[at]
            T.buffer_store(y, op.epilogue.clip(value, lanes), [at])

        with Share().serial(op.batch * op.channels) as image:
            if padded is not None:
                emit_image(window, x, image * height * width, padded, 0, target.lanes)
            plane, origin = (x, image * height * width) if padded is None else (padded, 0)
            with T.serial(0, op.multiplier) as copy, T.serial(0, block.down) as down, T.serial(0, block.across) as part:
                channel = (image % op.channels) * op.multiplier + copy
                row = tirx.min(down * block.rows, rows - block.rows)
                starts = [block.column(part, v, columns) for v in range(block.vectors)]
                places = [(r, v) for r in range(block.rows) for v in range(block.vectors)]
                sums = {place: T.alloc_buffer((lanes,), "float32") for place in places}
                at = ramp(0, lanes)
                for total in sums.values():
                    first = bias[channel] if bias is not None else tirx.const(identity, "float32")
                    T.buffer_store(total, splat(first, lanes), [at])
                for source, users in _readers(window, taps, block.rows):  # values that rows share are loaded once
                    for v, start in enumerate(starts):
                        there = origin + row * (window.stride[0] * window.row) + start + source
                        for r, tap in users:
                            total = sums[r, v]
                            T.buffer_store(total, combine(total[at], plane[ramp(there, lanes)], channel, tap), [at])
                for (r, v), total in sums.items():
                    place, filter_ = (row + r) * columns + starts[v], image * op.multiplier + copy
                    if columns >= lanes:
                        write(filter_, place, total[at], lanes)
                        continue
                    half = lanes // 2  # a row in two halves that overlap
                    for begin in (0, columns - half):
                        part_of = tirx.Shuffle([total[at]], list(range(begin, begin + half)))
                        write(filter_, place + begin, part_of, half)
    return builder.get()


@dataclass(frozen=True)
class _Block:
    """Outputs computed together: `rows` by `vectors` of `lanes`, `down` and `across` such blocks to an image."""

    rows: int
    vectors: int
    lanes: int
    down: int
    across: int

    def column(self, part: Any, v: int, columns: int) -> Any:
        """Where vector v of a block begins; the last ones of a row begin earlier and overlap their neighbours."""
        if columns <= self.lanes:
            return part * 0
        return tirx.min((part * self.vectors + v) * self.lanes, columns - self.lanes)


def _block(op: Windowed, target: Target) -> _Block:
    """The block that wastes least: enough sums to hide the latency of a multiply-add, as few as registers hold."""
    rows, columns = op.window.out
    # A vector may be longer than a row only where it ends in the copy, which has room for it.
    fitting = (columns - 1).bit_length() if op.window.copied else columns.bit_length() - 1
    lanes = min(target.lanes, 1 << fitting)
    needed = -(-columns // lanes)
    sums = target.registers * (3 if target.ahead else 5) // 8
    most = min(max(sums, 1), max(_STATEMENTS // (op.window.kernel[0] * op.window.kernel[1]), 1))
    weights = min(op.window.kernel[0], target.registers // 2) if op.mode == "depthwise" else 0  # of one column
    choices = [
        _Block(height, vectors, lanes, -(-rows // height), across)
        for across in range(1, needed + 1)
        for height in range(1, rows + 1)
        if height * (vectors := -(-needed // across)) <= most
        and height * vectors + vectors + weights <= target.registers
    ]
    return min(choices, key=lambda b: (b.down * b.across * (max(b.rows * b.vectors, _LATENCY) + 2), b.rows))


def _readers(window: Window, taps: list[int], rows: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """Which (row, tap) read the same values of the plane, by where those lie from the first row on.

    Column by column of the window: the weights of one column stay in registers while the rows pass, those of all taps
    would not.
    """
    users: dict[int, list[tuple[int, int]]] = {}
    for r in range(rows):
        for number, tap in enumerate(taps):
            users.setdefault(r * window.stride[0] * window.row + tap, []).append((r, number))
    across = window.kernel[1]
    return sorted(users.items(), key=lambda item: (item[1][0][1] % across, item[0]))
