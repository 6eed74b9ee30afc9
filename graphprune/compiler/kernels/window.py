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
from graphprune.compiler.kernels.padding import Window, emit_padded
from graphprune.compiler.kernels.product import arguments, ramp, scratch, splat
from graphprune.compiler.targets import Target

Mode = Literal["depthwise", "max", "average"]
_LOWEST = float(np.finfo(np.float32).min)


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
    lanes = min(target.lanes, 1 << (columns.bit_length() - 1))
    group = min(columns // lanes, 4)  # vectors computed together, to hide the latency of a multiply-add
    filters = op.channels * op.multiplier
    depthwise = op.mode == "depthwise"
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
        padded = scratch(window.plane) if window.copied else None

        def combine(value: Any, source: Any, channel: Any, tap: int) -> Any:
            if weight is not None:
                return value + splat(weight[channel * len(taps) + tap], lanes) * source
            return tirx.max(value, source) if op.mode == "max" else value + source

        with T.serial(0, op.batch * op.channels) as image:
            if padded is not None:
                fill = _LOWEST if op.mode == "max" else 0.0
                emit_padded(window, x, image * height * width, padded, 0, fill)
            plane, origin = (x, image * height * width) if padded is None else (padded, 0)
            parts = -(-columns // (group * lanes))
            with T.serial(0, op.multiplier) as copy, T.serial(0, rows) as row, T.serial(0, parts) as part:
                column = tirx.min(part * (group * lanes), columns - group * lanes)
                channel = (image % op.channels) * op.multiplier + copy
                source = origin + row * (window.stride[0] * window.row) + column
                sums = [T.alloc_buffer((lanes,), "float32") for _ in range(group)]
                at = ramp(0, lanes)
                for total in sums:
                    if bias is not None:
                        first = splat(bias[channel], lanes)
                    else:
                        first = splat(tirx.const(_LOWEST if op.mode == "max" else 0.0, "float32"), lanes)
                    T.buffer_store(total, first, [at])
                for number, tap in enumerate(taps):
                    for v, total in enumerate(sums):
                        value = plane[ramp(source + tap + v * lanes, lanes)]
                        T.buffer_store(total, combine(total[at], value, channel, number), [at])
                for v, total in enumerate(sums):
                    place = row * columns + column + v * lanes
                    target_at = (image * op.multiplier + copy) * (rows * columns) + place
                    value = total[at]
                    if scale is not None:
                        value = value * scale[ramp(place, lanes)]
                    if residual is not None:
                        value = value + residual[ramp(target_at, lanes)]
                    T.buffer_store(y, op.epilogue.clip(value, lanes), [ramp(target_at, lanes)])
    return builder.get()
