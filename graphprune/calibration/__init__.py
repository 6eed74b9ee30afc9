"""What flows into every layer, found without data.

A layer's least-squares problem needs no more of its inputs than their second moments. The inputs of the model are
seeded noise images, and ``statistics`` corrects what becomes of them inside; or sequences of ``tokens``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import Inputs, batched, is_open, kinds, synthetic
from graphprune.calibration.importance import importance
from graphprune.calibration.matching import matched
from graphprune.calibration.measured import WIDEST, Found, Measured, columns, mixed, sampled, walked
from graphprune.calibration.mirrored import with_mirror_images
from graphprune.calibration.noise import KINDS, NOISE
from graphprune.calibration.statistics import FAR, Statistics, imposed, in_graph, mismatch, observed, shrunk
from graphprune.calibration.tokens import Reader, enough, lengths, reader, sequences, writer
from graphprune.calls import calls, rule_of
from graphprune.cost import CostModel
from graphprune.model import Model
from graphprune.progress import track
from graphprune.proof import seeded_inputs
from graphprune.rules import Dim, Layer

START = "leaves"  # kind of noise that inputs are optimised from
MATCHED = 0.5  # share of inputs optimised to match statistics, among what is made up
LOOK = 8  # inputs that tell how far a kind of noise is from the statistics
GIVEN = 0.5  # share of real inputs, where there are any
WORK = 4e11  # multiply-accumulates, forwards, spent on matching for an effort of 1
MOVED = 1.3e11  # bytes of activations read and written meanwhile: what small layers take their time for
HELD = 3 << 29  # bytes of activations and weights, these as they are and turned round, held while matching
HELD_MOMENTS = 1 << 29  # bytes of second moments beyond which not every layer has some


@dataclass(frozen=True, eq=False)
class Moments:
    """One layer and what flows into it.

    Attributes:
        layer: what it computes.
        weights: W and, as its last column, b: float64 [parts, outputs, n + 1].
        second: mean of x xᵀ over positions, x ending in a 1: float64 [parts, n + 1, n + 1]. Where the output ends up
            in a tensor that is then normalised, positions count by the inverse square of their size there.
        energy: variance of the tensor that the layer's output is added into, summed over channels as they matter.
        importance: which errors of the output matter, float64 [channels, channels]; ``None`` is all alike.
    """

    layer: Layer
    weights: np.ndarray
    second: np.ndarray
    energy: float
    importance: np.ndarray | None = None

    def errors(self, part: int) -> np.ndarray:
        """The weights of a part with their outputs mixed so that the square of an error is what it matters."""
        weights = self.weights[part]
        outputs = len(weights)
        if self.importance is None or len(self.importance) != outputs * len(self.weights):
            return weights
        own = slice(part * outputs, (part + 1) * outputs)
        return np.linalg.cholesky(self.importance[own, own]).T @ weights

    def per_input(self, columns: np.ndarray) -> np.ndarray:
        """Values of columns, [parts, n + 1], summed for each position of the axis summed over; not for the constant."""
        taps = self.layer.taps
        values = columns[:, :-1].reshape(-1, taps).sum(axis=1)
        return values if self.layer.summed == 0 else values.reshape(len(columns), -1).sum(axis=0)

    def left(
        self, inputs: np.ndarray | None, outputs: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What a cut left of every part.

        Args:
            inputs: which positions of the summed axis of the weight went, bool; None for none.
            outputs: which of its other axis went.

        Yields:
            W and b of the outputs left, float64 [outputs left, n + 1]; the part of ``second``; the columns left,
            ascending, that of the constant last where the layer can have a bias.
        """
        parts, rows, n = self.weights.shape
        kept = np.ones(n, bool) if inputs is None else np.append(~np.repeat(inputs, self.layer.taps), True)
        kept[-1] = self.layer.shiftable
        there = np.ones(parts * rows, bool) if outputs is None else ~np.repeat(outputs, parts * rows // len(outputs))
        for weights, second, alive in zip(self.weights, self.second, there.reshape(parts, rows), strict=True):
            yield weights[alive], second, np.flatnonzero(kept)


@dataclass(frozen=True, eq=False)
class Noise:
    """One kind of made-up inputs: how to make them again, and the moments they had in the dense model."""

    make: Callable[[], Inputs]
    found: Statistics


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that is known of the dense model's activations.

    Attributes:
        moments: of every layer that has any, by name of its weight.
        statistics: the true moments of tensors, where known.
        noise: the made-up inputs, by kind; where any were optimised, with these, and without kinds that are far off.
        skipped: weight → why nothing is known of its layer.
        source: what the inputs were, in words.
        real: the real inputs and mirror images, and those optimised to be like them; nothing where none were given.
        nearest: the inputs that are most like real ones, where any were optimised or given.
        logits: the output that predicts the next token, where there is one.
    """

    moments: Mapping[str, Moments]
    statistics: Statistics
    noise: Mapping[str, Noise]
    skipped: Mapping[str, str]
    source: str
    real: tuple[Inputs, ...] = ()
    nearest: Inputs | None = None
    logits: str | None = None

    def shown(self) -> list[Inputs]:
        """The inputs that tell most of what the model does: those most like real ones, else all that were made up."""
        return [noise.make() for noise in self.noise.values()] if self.nearest is None else [self.nearest]

    def reader(self, dim: Dim) -> Moments | None:
        """What is known of the layer that sums over this axis of its weight, if anything."""
        moments = self.moments.get(dim.tensor)
        return moments if moments is not None and dim.axis == moments.layer.summed else None


def layers(model: Model) -> tuple[dict[str, tuple[gs.Node, Layer]], dict[str, str]]:
    """The linear layers of a model by weight, and why others with a weight are none."""
    found: dict[str, tuple[gs.Node, Layer]] = {}
    skipped: dict[str, str] = {}
    uses: dict[str, int] = {}
    for node, call in calls(model):
        for tensor in node.inputs:
            uses[tensor.name] = uses.get(tensor.name, 0) + 1
        rule = rule_of(node)
        if rule is not None and call is not None and (layer := rule.layer(call)) is not None:
            found[layer.weight] = (node, layer)
    for name, (_, layer) in list(found.items()):
        weight = model.constants[name]
        width = columns(model, name, layer)
        why = ""
        if uses[name] > 1:
            why = "its weight is shared"
        elif width > WIDEST:
            why = f"{width:,} inputs are more than {WIDEST:,}"
        elif np.dtype(weight.dtype).kind != "f":
            why = f"its weight is stored as {weight.dtype}"
        if why:
            del found[name]
            skipped[name] = why
    return found, skipped


def bias_of(node: gs.Node, layer: Layer) -> gs.Constant | None:
    """The constant bias of a layer's node, if it has one."""
    given = layer.bias is not None and len(node.inputs) > layer.bias and node.inputs[layer.bias].name
    return node.inputs[layer.bias] if given and isinstance(node.inputs[layer.bias], gs.Constant) else None


def calibrate(
    model: Model,
    statistics: Statistics,
    *,
    count: int = 64,
    seed: int = 0,
    spread: tuple[float, float] = (-2.0, 2.0),
    effort: float = 0.0,
    given: Inputs | None = None,
    vocabulary: int | None = None,
    losing: Collection[Dim] = (),
) -> Calibration:
    """Moments of every layer: half from noise and half from matched inputs, or half of all that from real ones.

    Drawn pictures are shown beside noise where there are no statistics: what they do to a model whose statistics they
    do not meet misleads the choice. Models that read tokens are given sequences of these in place of noise.

    Args:
        model: the dense model.
        statistics: what folded BatchNormalizations knew; those still in the graph are read from there.
        count: inputs of each kind.
        seed: of the noise and of the positions looked at.
        spread: the range of the model's floating-point inputs.
        effort: how long to look for inputs that match the statistics, 1 is about a minute for a mobile network;
            with 0 there are none.
        given: real inputs by name, [items, ...]; all of them are used, and their mirror images where the model answers
            alike to both.
        vocabulary: how many tokens there are, for models that read them; by default the length of their embedding.
        losing: axes that can lose positions. Where moments of all layers would take too much memory, only layers with
            such an axis have some, or even only those that can lose inputs.
    """
    model = batched(model)
    found, skipped = _chosen(model, losing)
    known = {t.name for node in model.graph.nodes for t in node.outputs}
    statistics = {name: s for name, s in {**statistics, **in_graph(model)}.items() if name in known}
    if (read := reader(model, vocabulary)) is not None:
        read = writer(model, read)
        noise, seen, source = _of_tokens(model, statistics, found, read, count, seed)
    else:
        noise, seen, source = _of_noise(model, statistics, found, count, seed, spread)
    nearest = []  # the inputs that are most like real ones
    if (similar := _matching(model, statistics, seed, spread, effort)) is not None:
        looked_at = {kind: synthetic(model, kind, LOOK, seed, spread) for kind in noise}
        noise = {kind: noise[kind] for kind, x in looked_at.items() if mismatch(model, statistics, x) < FAR}
        noise["matched"] = Noise(lambda: similar, observed(model, statistics, similar))
        seen = mixed(seen, sampled(model, found, similar, seed), MATCHED)
        nearest.append(similar)
        source += f"; {items(similar)} inputs optimised to match them"
    if given is not None:
        number, given = items(given), with_mirror_images(model, given)
        seen = mixed(seen, sampled(model, found, given, seed), GIVEN)
        nearest.append(given)
        source += f"; {number} real inputs" + " and their mirror images" * (items(given) > number)
    weight = _importance(model, [layer.y for _, layer in found.values()], nearest, seed)
    moments = {}
    for name, (node, layer) in found.items():
        own = seen.pop(name)
        second, covariance = own.second, own.covariance
        if not np.isfinite(second).all() or not np.isfinite(covariance).all():
            skipped[name] = "its inputs are not finite"
            continue
        second = np.stack([shrunk(part, own.count) for part in second])
        matters = weight.get(layer.y)
        if matters is not None and len(matters) != len(covariance):
            matters = None
        energy = np.trace(covariance) if matters is None else (matters * covariance).sum()
        moments[name] = Moments(layer, affine(model, node, layer), second, float(energy), matters)
    real = () if given is None else tuple(nearest)
    best, logits = nearest[-1] if nearest else None, None if read is None else read.logits
    return Calibration(moments, statistics, noise, skipped, source, real, best, logits)


def _chosen(model: Model, losing: Collection[Dim]) -> tuple[Found, dict[str, str]]:
    """``layers``, and where moments of all of them would take too much memory, only those that ``losing`` is about."""
    found, skipped = layers(model)
    held = {name: 8 * (columns(model, name, layer) + 1) ** 2 for name, (_, layer) in found.items()}
    narrowest = {name for name, (_, layer) in found.items() if Dim(name, layer.summed) in losing}
    choices = [set(held), {dim.tensor for dim in losing}, narrowest]
    wanted = next((c for c in choices if sum(held[name] for name in held.keys() & c) <= HELD_MOMENTS), narrowest)
    skipped |= dict.fromkeys(held.keys() - wanted, "its inputs stay, and the model is large")
    return {name: layer for name, layer in found.items() if name in wanted}, skipped


def _of_tokens(
    model: Model, statistics: Statistics, found: Found, read: Reader, count: int, seed: int
) -> tuple[dict[str, Noise], dict[str, Measured], str]:
    """Sequences of tokens, what layers make of them, and what they are in words."""
    noise: dict[str, Noise] = {}
    seen: dict[str, Measured] = {}
    widest = max((columns(model, name, layer) for name, (_, layer) in found.items()), default=1)
    parts = [replace(read, length=length) for length in lengths(model, read)]
    number = 0
    for k, part in enumerate(parts, 1):
        words = sequences(model, part, max(count, enough(widest, part)), seed)
        noise[f"tokens by {part.length}"] = Noise(partial(_same, words), observed(model, statistics, words))
        number += items(words)
        seen = mixed(seen, walked(model, found, words), 1 / k)
    how = "written by the model" if read.logits else "drawn from the vocabulary"
    source = f"{number} sequences of {' and '.join(str(part.length) for part in parts)} tokens {how}: {read}"
    return noise, seen, source


def _same(inputs: Inputs) -> Inputs:
    return inputs


def _of_noise(
    model: Model, statistics: Statistics, found: Found, count: int, seed: int, spread: tuple[float, float]
) -> tuple[dict[str, Noise], dict[str, Measured], str]:
    """Noise of every kind, what layers make of it where it is given the statistics, and what it is in words."""
    noise: dict[str, Noise] = {}
    seen: dict[str, Measured] = {}
    for k, kind in enumerate(track(kinds(model, NOISE if statistics else KINDS)), 1):
        make = partial(synthetic, model, kind, count, seed, spread)
        inputs = make()
        noise[kind] = Noise(make, observed(model, statistics, inputs))
        seen = mixed(seen, sampled(imposed(model, statistics, noise[kind].found), found, inputs, seed), 1 / k)
    imitated = "scaled to BatchNorm statistics in every layer" if statistics else "no BatchNorm statistics to match"
    return noise, seen, f"{count} inputs of {' and '.join(noise)} noise each, {imitated}"


def items(inputs: Inputs) -> int:
    """How many items a set of inputs holds."""
    return max((len(x) for x in inputs.values() if x.ndim), default=1)


def _matching(
    model: Model, statistics: Statistics, seed: int, spread: tuple[float, float], effort: float
) -> Inputs | None:
    """Inputs that meet the statistics, as many and as well as the effort and memory allow."""
    if not statistics or not effort:
        return None
    macs = CostModel(model).at().macs / items(seeded_inputs(model)) + 1e5
    held = sum(4 * prod(n or 1 for n in shape) for shape in model.shapes.values())
    count = int(np.clip(WORK / 100 / macs, 16, 96))
    weights = sum(prod(c.shape) * np.dtype(c.dtype).itemsize for c in model.constants.values())
    count = min(count, max(1, (HELD - 2 * weights) // held)) if is_open(model) else 1
    most = effort * min(WORK / macs, MOVED / held) / count
    steps = int(np.clip(most, 60 * min(effort, 1.0), 200 * max(effort, 1.0)))
    return matched(model, statistics, synthetic(model, START, count, seed, spread), max(steps, 1), spread)


def _importance(model: Model, tensors: Sequence[str], sets: Sequence[Inputs], seed: int) -> dict[str, np.ndarray]:
    """``importance`` on several sets of inputs: the mean of those that a gradient could be taken on."""
    found = [importance(model, tensors, inputs, seed) for inputs in sets]
    parts = {name: [f[name] for f in found if name in f] for name in tensors}
    return {name: np.mean(several, axis=0) for name, several in parts.items() if several}


def affine(model: Model, node: gs.Node, layer: Layer) -> np.ndarray:
    """W and b, float64 [parts, outputs, n + 1]."""
    matrix = layer.matrix(np.asarray(model.constants[layer.weight].values, np.float64))
    column = np.zeros((*matrix.shape[:2], 1))
    if (bias := bias_of(node, layer)) is not None:
        column[...] = np.asarray(bias.values, np.float64).reshape(column.shape)
    return np.concatenate([matrix, column], axis=2)
