"""Copy images into zero-padded planes whose rows are split by stride phase.

With the columns of one phase side by side, a strided window reads consecutive values: `x[y·s + i, x·s + j]` is column
`x + j // s` of phase `j % s`. Kernels then see stride 1 along a row whatever the stride is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.vectors import Share, arguments, ramp
from graphprune.compiler.targets import Target

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A sliding window over an image.

    Attributes:
        image: height and width of the input.
        kernel: height and width of the window.
        stride: step down and across.
        dilation: distance of the taps.
        pad: rows above, columns left, rows below, columns right.
        out: height and width of the output.
    """

    image: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pad: tuple[int, int, int, int]
    out: Pair

    def __str__(self) -> str:
        stride = f" stride {max(self.stride)}" if max(self.stride) > 1 else ""
        return f"{self.kernel[0]} × {self.kernel[1]}{stride}"

    @property
    def copied(self) -> bool:
        """Whether a padded copy is needed; without one the image itself is the plane."""
        return any(self.pad) or self.stride[1] > 1

    @property
    def one_run(self) -> bool:
        """Whether the values under one tap of all outputs follow one another in the plane."""
        return self.out[1] == self.row and self.stride[0] == 1

    @property
    def span(self) -> int:
        """Columns of one phase."""
        if not self.copied:
            return self.image[1]
        return self.out[1] + (self.kernel[1] - 1) * self.dilation[1] // self.stride[1]

    @property
    def height(self) -> int:
        """Rows of a plane."""
        if not self.copied:
            return self.image[0]
        return (self.out[0] - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    @property
    def phases(self) -> int:
        """Phases that any tap reads."""
        return min(self.stride[1], (self.kernel[1] - 1) * self.dilation[1] + 1) if self.copied else 1

    @property
    def row(self) -> int:
        """Distance between rows of a plane."""
        return self.span * self.phases

    @property
    def plane(self) -> int:
        """Values in a plane."""
        return self.row * self.height

    def tap(self, i: Any, j: Any) -> Any:
        """Where tap (i, j) of the window at output (0, 0) lies in a plane."""
        column = j * self.dilation[1]
        phase, column = (column % self.stride[1], column // self.stride[1]) if self.copied else (0, column)
        return i * self.dilation[0] * self.row + phase * self.span + column


def planes_kernel(window: Window, batch: int, channels: int, target: Target) -> tirx.PrimFunc:
    """The function (x, planes [batch, channels, plane]) that pads every image."""
    size = window.image[0] * window.image[1]
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("pad")
        T.func_attr({"tirx.noalias": True})
        x, planes = arguments(x=(batch, channels, *window.image), planes=(batch, channels, window.plane))
        with Share().serial(batch * channels) as image:
            emit_padded(window, x, image * size, planes, image * window.plane, target.lanes)
    return builder.get()


def emit_padded(window: Window, source: Any, source_at: Any, plane: Any, plane_at: Any, lanes: int) -> None:
    """Copy one image from flat `source` into a plane of flat `plane`, with zeros around it."""
    emit_border(window, plane, plane_at, 0.0)
    emit_image(window, source, source_at, plane, plane_at, lanes)


def emit_border(window: Window, plane: Any, plane_at: Any, fill: float) -> None:
    """Write `fill` wherever a plane holds no image."""
    first, last = _rows(window)
    value = tirx.const(fill, "float32")

    def write(begin: Any, count: int) -> None:
        if count:
            with T.serial(0, count) as x:
                T.buffer_store(plane, value, [begin + x])

    write(plane_at, first * window.row)
    with T.serial(0, last - first) as y:
        for phase in range(window.phases):
            to = plane_at + (y + first) * window.row + phase * window.span
            begin, end = _columns(window, phase)
            write(to, begin)
            write(to + end, window.span - end)
    write(plane_at + last * window.row, (window.height - last) * window.row)


def emit_image(window: Window, source: Any, source_at: Any, plane: Any, plane_at: Any, lanes: int) -> None:
    """Copy one image from flat `source` into a plane of flat `plane`; what is around it stays."""
    first, last = _rows(window)
    stride = window.stride[1]
    with T.serial(0, last - first) as y:
        for phase in range(window.phases):
            to = plane_at + (y + first) * window.row + phase * window.span
            begin, end = _columns(window, phase)
            origin = source_at + (y + first - window.pad[0]) * window.image[1] + begin * stride + phase - window.pad[1]
            _emit_row(source, origin, stride, plane, to + begin, end - begin, lanes)


def _emit_row(source: Any, origin: Any, stride: int, plane: Any, to: Any, count: int, lanes: int) -> None:
    """Copy every `stride`-th value, in vectors of which the last one overlaps its neighbour."""
    lanes = min(lanes, 1 << (count.bit_length() - 1)) if count and stride in (1, 2, 4) else 1

    def copy(x: Any) -> None:
        value = source[ramp(origin + x * stride, lanes)]
        if stride > 1 and lanes > 1:  # out of whole vectors: LLVM's own loads of every second value are slow
            more = [source[ramp(origin + x * stride + i * lanes, lanes)] for i in range(1, stride)]
            value = tirx.Shuffle([value, *more], list(range(0, stride * lanes, stride)))
        T.buffer_store(plane, value, [ramp(to + x, lanes)])

    with T.serial(0, count // lanes) as v:
        copy(v * lanes)
    if count % lanes:
        copy(count - lanes)


def _rows(window: Window) -> tuple[int, int]:
    """The rows of a plane that hold rows of the image: the first, and one beyond the last."""
    top = min(window.pad[0], window.height)
    return top, max(min(window.pad[0] + window.image[0], window.height), top)


def _columns(window: Window, phase: int) -> tuple[int, int]:
    """The columns of one phase that hold columns of the image: the first, and one beyond the last."""
    left, stride = window.pad[1], window.stride[1]
    begin = min(max(-(-(left - phase) // stride), 0), window.span)
    return begin, max(min((window.image[1] + left - phase - 1) // stride + 1, window.span), begin)
