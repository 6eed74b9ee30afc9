"""Set weights to zero in blocks that kernels can skip, the weights that are left making up for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from graphprune.errors import UsageError
from graphprune.progress import track
from graphprune.state import State
from graphprune.zeros import Curves, Losses, Supports, Zeros, cheapest, dense, in_groups


@dataclass(frozen=True)
class Sparsify:
    """Optimal Brain Surgeon for blocks of weights: one input of ``block`` neighbouring output channels.

    All layers compete: what adds least error to the model's outputs for each multiply-accumulate it saves goes, given
    what is gone of its block already, and every block of rows is refitted on the inputs it keeps. With
    ``milliseconds``, levels are chosen layer by layer from what ``curve_zeros`` measured: least error in all for a
    model that is as fast. Compiled models skip the zeros; in the ONNX file they are plain zeros. Layers applied once,
    such as a classifier's, stay dense.

    Attributes:
        ratio: share of the multiply-accumulates of these layers that are to meet a zero.
        pattern: ``N:M`` in place of a ratio: of every M neighbouring input channels at most N are left.
        milliseconds: latency of the whole model in place of a ratio, as predicted from ``curve_zeros``; 0 is none.
        levels: a ratio for every layer by its weight, in place of one for all.
        block: output channels that share their zeros. 1 keeps most accuracy, but kernels of 2 are a third faster; those
            of 4 are faster by a few per cent more, and lose about twice as much (docs/results.md, "Zeros").
        floor: share of its inputs that every block keeps.
        damp: share of the mean input power added to every input.
    """

    ratio: float = 0.7
    pattern: str = ""
    milliseconds: float = 0.0
    levels: Mapping[str, float] | None = None
    block: int = 2
    floor: float = 0.05
    damp: float = 0.01

    approximate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for amounts that mean nothing."""
        if not 0 <= self.ratio < 1:
            raise UsageError(f"a sparsity of {self.ratio} is not between 0 and 1", "0.7 makes 70 % zero")
        if self.block < 1:
            raise UsageError("blocks of sparsify are at least 1", "sparsify(ratio=0.7, block=4)")
        if self.pattern:
            self._counts()

    def _counts(self) -> tuple[int, int]:
        left, _, size = self.pattern.partition(":")
        if not (left.isdecimal() and size.isdecimal() and 0 < int(left) < int(size)):
            raise UsageError(f"'{self.pattern}' is no pattern", "2:4 leaves two of every four inputs")
        return int(left), int(size)

    def __call__(self, state: State) -> State:
        """A state whose model has new weights, many of them zero."""
        levels = self.levels
        if self.milliseconds:
            curves: Curves | None = state.data.get("zeros")
            if curves is None:
                raise UsageError("sparsify needs curves for a latency", 'write "curve_zeros, sparsify(milliseconds=…)"')
            levels = curves.within(self.milliseconds)
            zeros, kept = curves.zeros, _at(levels, curves.zeros, curves.losses, self.floor)
        else:
            zeros = dense(state, self.block, self.damp)
            kept = self._kept(zeros)
        share = zeros.share(kept)
        kind = f"in blocks of {zeros.size} × 1" + f", {self.pattern}" * bool(self.pattern)
        note = f"{share:.0%} of the multiply-accumulates of {len(zeros.parts)} layers meet a zero, {kind}"
        left = {"sparsity": share, "levels": levels, "notes": (*state.data.get("notes", ()), note)}
        return replace(state, model=zeros.written(state.model, kept), data={**state.data, **left})

    def settled(self, after: State) -> str:
        """The levels in the place of a latency, whose times another run would measure otherwise."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.milliseconds:
            zeros = after.data["zeros"].zeros
            options |= {"milliseconds": 0.0, "levels": after.data["levels"], "block": zeros.size, "damp": zeros.damp}
        changed = [f"{f.name}={options[f.name]!r}" for f in fields(self) if options[f.name] != f.default]
        return f"sparsify({', '.join(changed)})"

    def _kept(self, zeros: Zeros) -> Supports:
        if self.pattern:
            parts = track([(name, part) for name, made in zeros.parts.items() for part in made])
            found: dict[str, list[np.ndarray]] = {name: [] for name in zeros.parts}
            for name, part in parts:
                found[name] += in_groups(part, *self._counts())
            return found
        losses = zeros.losses()
        if self.levels is not None:
            return _at(self.levels, zeros, losses, self.floor)
        blocks = [block for name in zeros.parts for block in zeros.of(name)]
        every = [one for name in zeros.parts for one in losses[name]]
        supports = iter(cheapest(blocks, every, self.ratio, self.floor)[0])
        return {name: [next(supports) for _ in zeros.of(name)] for name in zeros.parts}


def _at(levels: Mapping[str, float], zeros: Zeros, losses: Mapping[str, Sequence[Losses]], floor: float) -> Supports:
    """What blocks keep with so many zeros in every layer; those that are not named stay as they are."""
    return {n: cheapest(zeros.of(n), losses[n], levels.get(n, 0.0), floor)[0] for n in zeros.parts}
