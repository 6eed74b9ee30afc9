"""Choose residual branches to remove: attention, feed-forward and convolution layers, or whole blocks of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphprune.branches import ATTENTION, CONVOLUTION, FEED_FORWARD, Branch, blocks, branches, gated
from graphprune.calibration.activations import assorted, batched, real, split
from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.model import Model
from graphprune.progress import track
from graphprune.proof import Arrays, Runner
from graphprune.state import State

KINDS_OF_LAYER = ("branch", "block", ATTENTION, FEED_FORWARD, CONVOLUTION)
TOGETHER = 8  # inputs that are run at a time, where the model takes several

Layer = tuple[Branch, ...]


@dataclass(frozen=True)
class ChooseLayers:
    """Set ``layers``: those whose removal is noticed least.

    ``output`` is greedy: again and again the one goes without which the model's outputs turn least from what they were,
    measured anew each time (FinerCut, Zhang et al. 2024). ``influence`` takes those that turn their own input least,
    measured once (ShortGPT, Men et al. 2024). Turning is 1 − cosine, of the channels at each position.

    Attributes:
        count: how many layers go, a whole number, or which share of them, a ``float`` up to 1.0.
        by: ``output`` or ``influence``.
        of: what is a layer: a ``branch``, those of one kind (``attention``, ``feed-forward``, ``convolution``), or a
            whole ``block``, attention with the feed-forward layers behind it.
        inputs: how many inputs are made up.
        seed: of these inputs.
        spread: range of the floating-point inputs as a pair.
        given: whether real inputs, which the caller left in ``data["inputs"]``, are used instead.
    """

    count: float = 1
    by: str = "output"
    of: str = "branch"
    inputs: int = 12
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)
    given: bool = False

    def __post_init__(self) -> None:
        """Raise ``UsageError`` for options that mean nothing."""
        if not (self.count > 0 if isinstance(self.count, int) else 0 < self.count <= 1):
            raise UsageError(f"{self.count} layers cannot be removed", "give a whole number, or a share such as 0.1")
        if self.by not in ("output", "influence"):
            raise UsageError(f"layers are not chosen by '{self.by}'", "by output or influence")
        if self.of not in KINDS_OF_LAYER:
            raise UsageError(f"there are no layers of '{self.of}'", f"there are {', '.join(KINDS_OF_LAYER)}")

    def __call__(self, state: State) -> State:
        """The same model with ``layers``, and ``data["layers"]``: by sum, how much its removal turned."""
        layers = self._layers(state)
        count = self.count if isinstance(self.count, int) else round(self.count * len(layers))
        if count > len(layers):
            raise TargetNotReachedError(
                f"{state.model.name} has {len(layers)} layers to choose from, not {count}",
                "ask for fewer, or for smaller ones with choose_layers(of='branch')",
            )
        inputs = real(state.data) if self.given else assorted(state.model, self.inputs, self.seed, self.spread)
        measured = _Measured(state.model, [b for layer in layers for b in layer], inputs)
        chosen = measured.greedily(layers, count) if self.by == "output" else measured.at_once(layers, count)
        names = tuple(branch.sum for layer in chosen for branch in layer)
        turned = ", ".join(f"{' and '.join(b.sum for b in layer)} ({score:.4f})" for layer, score in chosen.items())
        note = f"{len(chosen)} of {len(layers)} layers removed, in this order: {turned}"
        notes = (*state.data.get("notes", ()), *([note] if chosen else []))
        scores = {branch.sum: score for layer, score in chosen.items() for branch in layer}
        return replace(state, layers=names, data={**state.data, "layers": scores, "notes": notes})

    def _layers(self, state: State) -> list[Layer]:
        found = [b for b in branches(state.model) if not b.inner and state.selects_names([b.sum, b.output])]
        layers: list[Layer] = (
            blocks(found) if self.of == "block" else [(b,) for b in found if self.of in ("branch", b.kind)]
        )
        if not layers:
            raise NothingToPruneError(
                f"{state.model.name} has no layer to remove: no sum of a tensor with what is computed from it",
                "--include and --exclude also narrow the choice",
            )
        return layers


class _Measured:
    """A model of which any branches can be switched off, run on some inputs."""

    def __init__(self, model: Model, found: Sequence[Branch], inputs: Arrays) -> None:
        self._model = batched(model)
        self._found = found
        self._batches = split(self._model, inputs, TOGETHER)

    def greedily(self, layers: Sequence[Layer], count: int) -> dict[Layer, float]:
        """The layers that go, in order, with how far the outputs have turned once each is gone."""
        model = gated(self._model, self._found)
        runner = Runner(model, optimise=True)
        caches = {name for branch in self._found for name in branch.caches}
        wanted = [name for name in model.outputs if name not in caches]
        gates = {name: _gate(model, name) for name in model.inputs if name not in self._model.inputs}

        def outputs(off: Sequence[Layer]) -> Iterator[Arrays]:
            closed = {f"{branch.sum}:gate" for layer in off for branch in layer}
            values = {name: np.full_like(one, name not in closed) for name, one in gates.items()}
            for result in runner.each([{**batch, **values} for batch in self._batches]):
                yield {name: result[name] for name in wanted if result[name].dtype.kind == "f"}

        reference = list(outputs([]))
        chosen: dict[Layer, float] = {}
        for _ in track(range(count)):
            left = [layer for layer in layers if layer not in chosen]
            scores = [_turned_all(outputs([*chosen, layer]), reference) for layer in track(left)]
            best = int(np.argmin(scores))
            chosen[left[best]] = scores[best]
        return chosen

    def at_once(self, layers: Sequence[Layer], count: int) -> dict[Layer, float]:
        """The layers that turn their input least, least first."""
        ends = [(layer[0].stream, layer[-1].sum) for layer in layers]
        runner = Runner(self._model, optimise=True, also=dict.fromkeys(name for pair in ends for name in pair))
        results = runner.each(self._batches)
        scores = np.mean([[_turned(r[end], r[start]) for start, end in ends] for r in results], axis=0)
        order = np.argsort(scores, kind="stable")[:count]
        return {layers[k]: float(scores[k]) for k in order}


def _gate(model: Model, name: str) -> np.ndarray:
    kind = model.inputs[name].type.tensor_type.elem_type
    return np.ones((), onnx.helper.tensor_dtype_to_np_dtype(kind))


def _turned_all(results: Iterable[Arrays], references: Sequence[Arrays]) -> float:
    """The mean over outputs and batches of how far they have turned; infinite where one is not finite."""
    pairs = zip(results, references, strict=True)
    found = [_turned(a[name], b[name]) for a, b in pairs for name in b]
    return float(np.mean(found)) if found and np.isfinite(found).all() else float("inf")


def _turned(a: np.ndarray, b: np.ndarray) -> float:
    """1 − cosine between the channels of two tensors, mean over positions; of all values where there is one channel."""
    a, b = (np.moveaxis(x, 1, -1) if x.ndim == 4 else x for x in (a, b))
    channels = b.shape[-1] if b.ndim > 1 and b.shape[-1] > 1 else -1
    a, b = (x.reshape(-1, channels) if channels > 0 else x.reshape(1, -1) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide(np.einsum("pc,pc->p", a, b), lengths, out=np.zeros(len(b), b.dtype), where=lengths > 0)
    return float(np.mean(1 - cosine, dtype=np.float64))
