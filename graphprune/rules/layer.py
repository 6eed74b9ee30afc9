"""A linear operator as the matrix product it is at every position: what least squares needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Layer:
    """``y = W x + b`` with a constant weight, at every position (pixel, row) it is applied to.

    A grouped convolution has one independent problem for each of its ``parts``; each sums over ``n`` columns.

    Attributes:
        x: name of the tensor read.
        y: name of the tensor made.
        weight: name of the constant weight.
        bias: index of the node's bias input, given or not; ``None`` where none is one plain value per output.
        shiftable: whether every output of W can be given a constant of its own, in a bias or by an addition.
        summed: the axis of the weight summed over: 0 or 1.
        parts: number of independent problems; one where axis 0 is summed over.
        taps: columns for each position of the summed axis: column ``k`` belongs to position ``k // taps``.
        positions: how many positions an x of a given shape has.
        unfold: x and the positions wanted, int64 [p], to the columns multiplied: [parts, p, n].
    """

    x: str
    y: str
    weight: str
    bias: int | None
    shiftable: bool
    summed: int
    parts: int
    taps: int
    positions: Callable[[tuple[int, ...]], int]
    unfold: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The weight as W, [parts, outputs, n]."""
        n = weight.shape[self.summed] * self.taps
        if self.summed == 0:
            return weight.reshape(1, n, -1).swapaxes(1, 2)
        return weight.reshape(self.parts, -1, n)

    def tensor(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The weight of a given shape from W; undoes ``matrix``."""
        return (matrix.swapaxes(1, 2) if self.summed == 0 else matrix).reshape(shape)
