"""Set weights to zero in blocks that kernels can skip, the weights that are left making up for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphprune.errors import TargetNotReachedError, UsageError
from graphprune.progress import track
from graphprune.state import State
from graphprune.zeros import Curve, Curves, Zeros, dense, remove, remove_in_groups


@dataclass(frozen=True)
class Sparsify:
    """Optimal Brain Surgeon for blocks of weights: one input of ``block`` neighbouring output channels.

    All layers compete in rounds: what adds least error to the model's outputs for each multiply-accumulate it saves
    goes, then every block of rows is refitted on the inputs it keeps. With ``milliseconds``, levels are chosen layer by
    layer from what ``curve_zeros`` measured: least error in all for a model that is as fast. Compiled models skip the
    zeros; in the ONNX file they are plain zeros. Layers applied once, such as a classifier's, stay dense.

    Attributes:
        ratio: share of the multiply-accumulates of these layers that are to meet a zero.
        pattern: ``N:M`` in place of a ratio: of every M neighbouring input channels at most N are left.
        milliseconds: latency of the whole model in place of a ratio, as predicted from ``curve_zeros``; 0 is none.
        block: output channels that share their zeros; 1 keeps most accuracy, 4 is fastest.
        rounds: how often weights are scored anew.
        floor: share of its inputs that every block keeps.
        damp: share of the mean input power added to every input.
    """

    ratio: float = 0.7
    pattern: str = ""
    milliseconds: float = 0.0
    block: int = 4
    rounds: int = 3
    floor: float = 0.05
    damp: float = 0.01

    approximate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        if not 0 <= self.ratio < 1:
            raise UsageError(f"a sparsity of {self.ratio} is not between 0 and 1", "0.7 makes 70 % zero")
        if min(self.block, self.rounds) < 1:
            raise UsageError("blocks and rounds of sparsify are at least 1", "sparsify(ratio=0.7, block=4, rounds=3)")
        if self.pattern:
            self._counts()

    def _counts(self) -> tuple[int, int]:
        left, _, size = self.pattern.partition(":")
        if not (left.isdecimal() and size.isdecimal() and 0 < int(left) < int(size)):
            raise UsageError(f"'{self.pattern}' is no pattern", "2:4 leaves two of every four inputs")
        return int(left), int(size)

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, many of them zero."""
        zeros = dense(state, self.block, self.damp)
        if self.milliseconds:
            self._meet(zeros, state.data.get("zeros"))
        elif self.pattern:
            remove_in_groups(zeros.blocks, *self._counts())
        else:
            for step in track(range(self.rounds)):
                remove(zeros.blocks, self.ratio * (step + 1) / self.rounds, self.floor)
        model, _ = zeros.written(state.model)
        kind = f"in blocks of {self.block} × 1" + f", {self.pattern}" * bool(self.pattern)
        note = f"{zeros.share:.0%} of the multiply-accumulates of {len(zeros.parts)} layers meet a zero, {kind}"
        notes = (*state.data.get("notes", ()), note)
        return replace(state, model=model, data={**state.data, "sparsity": zeros.share, "notes": notes})

    def _meet(self, zeros: Zeros, curves: Curves | None) -> None:
        """Levels of least error that are fast enough."""
        if curves is None:
            raise UsageError("sparsify needs curves to meet a latency", 'write "curve_zeros, sparsify(milliseconds=…)"')
        levels = _levels(curves.layers, self.milliseconds - curves.rest, self.milliseconds)
        for name, level in track(levels.items()):
            blocks, curve = zeros.of(name), curves.layers[name]
            start = int(np.searchsorted(curve.levels, level + 1e-9)) - 1
            for block, support in zip(blocks, curve.supports[start], strict=True):
                block.keep(support)
            if level > curve.levels[start]:
                remove(blocks, level, self.floor)


def _levels(curves: Mapping[str, Curve], milliseconds: float, whole: float) -> dict[str, float]:
    """A level of zeros for every layer: least error for a sum of times, which with the rest makes the ``whole``.

    At a price for time every layer takes the level that is cheapest for it; between the last price that is too low and
    the first that is not, levels are mixed.
    """

    def at(price: float) -> dict[str, float]:
        return {n: float(c.levels[np.argmin(c.errors + price * c.milliseconds)]) for n, c in curves.items()}

    def time(levels: Mapping[str, float]) -> float:
        return sum(float(np.interp(s, curves[n].levels, curves[n].milliseconds)) for n, s in levels.items())

    def first(good: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if good(middle) else (middle, high)
        return low, high

    high = 1.0
    while time(at(high)) > milliseconds:
        high *= 8
        if high > 1e15:
            least = time(at(high)) + whole - milliseconds
            raise TargetNotReachedError(
                f"zeros make it {least:.3g} ms at least, and {whole:.3g} ms are wanted",
                "remove channels as well",
            )
    low, high = first(lambda price: time(at(price)) <= milliseconds, 0.0, high)
    few, many = at(low), at(high)

    def mixed(share: float) -> dict[str, float]:
        return {name: few[name] + share * (many[name] - few[name]) for name in few}

    return mixed(first(lambda share: time(mixed(share)) <= milliseconds, 0.0, 1.0)[1])
