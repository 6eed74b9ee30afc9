"""Copy images into zero-padded planes whose rows are split by stride phase.

With the columns of one phase side by side, a strided window reads consecutive values: `x[y·s + i, x·s + j]` is column
`x + j // s` of phase `j % s`. Kernels then see stride 1 along a row whatever the stride is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx

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


def emit_padded(window: Window, source: Any, source_at: Any, plane: Any, plane_at: Any, fill: float = 0.0) -> None:
    """Copy one image from flat `source` into a plane of flat `plane`, with `fill` around it."""
    top, left = window.pad[:2]
    height, width = window.image
    stride = window.stride[1]
    zero = tirx.const(fill, "float32")

    def rows(begin: int, end: int) -> None:
        with T.serial(0, (end - begin) * window.row) as x:
            T.buffer_store(plane, zero, [plane_at + begin * window.row + x])

    first, last = min(top, window.height), max(min(top + height, window.height), min(top, window.height))
    if first:
        rows(0, first)
    with T.serial(0, last - first) as y:
        for phase in range(window.phases):
            to = plane_at + (y + first) * window.row + phase * window.span
            begin = min(max(-(-(left - phase) // stride), 0), window.span)
            end = max(min((width + left - phase - 1) // stride + 1, window.span), begin)
            if begin:
                with T.serial(0, begin) as x:
                    T.buffer_store(plane, zero, [to + x])
            if end > begin:
                origin = source_at + (y + first - top) * width + (begin * stride + phase - left)
                with T.serial(0, end - begin) as x:
                    T.buffer_store(plane, source[origin + x * stride], [to + begin + x])
            if window.span > end:
                with T.serial(0, window.span - end) as x:
                    T.buffer_store(plane, zero, [to + end + x])
    if window.height > last:
        rows(last, window.height)
