"""How wrong a pruned model is: its outputs against the original's, on inputs that no pass has seen.

The law says that a cut is right for the weights it leaves; this says what the weights that are gone were worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from graphprune.calibration.activations import kinds, synthetic
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.progress import track
from graphprune.proof import Arrays, Runner

ITEMS = 12  # made-up inputs: as many of each kind of noise
MOST = 240  # of the real inputs, spread evenly over those given
HELD_OUT = 1_000_000  # added to the seed, so that calibration has seen none of them
SPREAD = (-2.0, 2.0)  # of made-up images, as in calibration


class Fidelity(msgspec.Struct, frozen=True):
    """The error of the whole.

    Attributes:
        error: of the output that is furthest off: ‖pruned − original‖₂ / ‖original‖₂ over all inputs and elements. 0 is
            the same; 1 is what a model that always answers 0 has; infinite where the pruned one is not finite. An
            output of whole numbers or booleans counts the share of elements that differ.
        cosine: of the angle between the outputs for one input, mean over the inputs, of the output that is lowest.
        outputs: the error of each output.
        inputs: how many were run.
        source: what they were, in words.
    """

    error: float
    cosine: float
    outputs: dict[str, float]
    inputs: int
    source: str


def measure(
    original: Model, pruned: Model, *, seed: int = 0, given: Arrays | None = None, seen: bool = False
) -> Fidelity:
    """Run both models, one input after another.

    Args:
        original: what is right.
        pruned: with the same interface, or a part of it.
        seed: of made-up inputs.
        given: real inputs by name, [items, ...]; without them inputs are made up.
        seen: whether the weights were fitted on ``given``, which is then said in ``source``.

    Raises:
        UsageError: ``given`` lacks an input, or holds too few items for one run.
    """
    runners = Runner(original), Runner(pruned)
    sums: dict[str, _Sum] = {}
    batches = list(_made_up(original, seed) if given is None else _parts(original, given))
    pairs = zip(*(runner.each(batches) for runner in runners), strict=True)
    for _, (reference, result) in zip(track(range(len(batches))), pairs, strict=True):
        for name in result:
            b = reference[name]
            sums.setdefault(name, _Sum()).add(result[name], b)
    errors = {name: s.error for name, s in sums.items()}
    source = "made-up inputs" if given is None else "calibration data" if seen else "held-out data"
    cosine = min((s.cosine / len(batches) for s in sums.values()), default=1.0)
    return Fidelity(max(errors.values(), default=0.0), cosine, errors, len(batches), source)


@dataclass
class _Sum:
    """One output so far: squares of the difference and of the reference, and the sum of cosines."""

    apart: float = 0.0
    whole: float = 0.0
    cosine: float = 0.0

    @property
    def error(self) -> float:
        """The relative error of all that was added."""
        return float(np.sqrt(self.apart / (self.whole or 1.0)))

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Count the outputs for one more input: ``a`` of the pruned model, ``b`` of the original."""
        if a.shape != b.shape:  # as many detections as there are: none of them counts as found
            a, b = np.zeros(b.size or 1), np.ones(b.size or 1)
        elif b.dtype.kind != "f":
            a, b = (a == b).astype(np.float64), np.ones(b.shape)
        right = np.isfinite(b)  # infinities of the original, as of a mask, say nothing of an error
        a, b = a[right].astype(np.float64), b[right].astype(np.float64)
        self.apart += float(np.square(a - b).sum()) if np.isfinite(a).all() else np.inf
        self.whole += float(np.square(b).sum())
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        self.cosine += (
            float(np.vdot(a, b)) / lengths if lengths and np.isfinite(lengths) else float(np.array_equal(a, b))
        )


def _made_up(model: Model, seed: int) -> Iterator[Arrays]:
    known = kinds(model)
    for k in range(ITEMS):
        yield synthetic(model, known[k % len(known)], 1, seed + HELD_OUT + k, SPREAD)


def _parts(model: Model, given: Arrays) -> Iterator[Arrays]:
    """The items, as many at a time as the model takes."""
    if missing := sorted(set(model.inputs) - set(given)):
        raise UsageError(f"the data have no array called '{missing[0]}'", "name arrays like the inputs")
    sizes = {name: model.input_shapes[name][0] for name in model.inputs if model.input_shapes[name]}
    runs = min((len(given[name]) // size for name, size in sizes.items() if size), default=1)
    if not runs:
        raise UsageError("the data have fewer items than the model takes at a time", "give more of them")
    for k in np.unique(np.linspace(0, runs - 1, min(runs, MOST)).astype(int)):
        yield {n: given[n][k * sizes[n] : (k + 1) * sizes[n]] if n in sizes else given[n] for n in model.inputs}
