"""What flows into every layer, found without data.

A layer's least-squares problem needs no more of its inputs than their second moments. The inputs of the model are
seeded noise images, or random token ids; ``statistics`` corrects what becomes of them inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import Inputs, batched, has_images, run, synthetic
from graphprune.calibration.statistics import Statistics, imposed, in_graph, observed, shrunk
from graphprune.coupling import calls, rule_of
from graphprune.model import Model
from graphprune.noise import KINDS
from graphprune.progress import track
from graphprune.rules import Layer

WIDEST = 6144  # columns of the largest problem: its matrices take 300 MB each
POSITIONS = 2048  # so many positions of a layer are looked at for each set of inputs, or twice its columns


@dataclass(frozen=True, eq=False)
class Moments:
    """One layer and what flows into it.

    Attributes:
        layer: what it computes.
        weights: W and, as its last column, b: float64 [parts, outputs, n + 1].
        second: mean of x xᵀ over positions, x ending in a 1: float64 [parts, n + 1, n + 1].
        energy: variance of the tensor that the layer's output is added into, summed over channels.
    """

    layer: Layer
    weights: np.ndarray
    second: np.ndarray
    energy: float

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
        noise: by kind.
        skipped: weight → why nothing is known of its layer.
        source: what the inputs were, in words.
    """

    moments: Mapping[str, Moments]
    statistics: Statistics
    noise: Mapping[str, Noise]
    skipped: Mapping[str, str]
    source: str


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
        columns = int(weight.shape[layer.summed]) * layer.taps
        why = ""
        if uses[name] > 1:
            why = "its weight is shared"
        elif columns > WIDEST:
            why = f"{columns:,} inputs are more than {WIDEST:,}"
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
    kinds: Sequence[str] = tuple(KINDS),
    count: int = 32,
    seed: int = 0,
    spread: tuple[float, float] = (-2.0, 2.0),
    given: Inputs | None = None,
) -> Calibration:
    """Moments of every layer: the mean over the kinds of noise, and half of that where real inputs are given.

    Args:
        model: the dense model.
        statistics: what folded BatchNormalizations knew; those still in the graph are read from there.
        kinds: of noise images; models without an image input are given white noise and random whole numbers.
        count: inputs of each kind.
        seed: of the noise and of the positions looked at.
        spread: the range of the model's floating-point inputs.
        given: real inputs by name, [items, ...]; all of them are used.
    """
    model = batched(model)
    found, skipped = layers(model)
    known = {t.name for node in model.graph.nodes for t in node.outputs}
    statistics = {name: s for name, s in {**statistics, **in_graph(model)}.items() if name in known}
    kinds = tuple(kinds) if has_images(model) else tuple(kinds[:1])
    noise, sets = {}, []
    for kind in track(kinds):
        make = partial(synthetic, model, kind, count, seed, spread)
        inputs = make()
        noise[kind] = Noise(make, observed(model, statistics, inputs))
        sets.append(_measure(imposed(model, statistics, noise[kind].found), found, inputs, seed))
    shares = [1 / len(sets)] * len(sets)
    if given is not None:
        sets.append(_measure(model, found, given, seed))
        shares = [share / 2 for share in shares] + [0.5]
    moments = {}
    for name, (node, layer) in found.items():
        second = np.sum([share * s[name].second for share, s in zip(shares, sets, strict=True)], axis=0)
        energy = sum(share * s[name].energy for share, s in zip(shares, sets, strict=True))
        if not np.isfinite(second).all() or not np.isfinite(energy):
            skipped[name] = "its inputs are not finite"
            continue
        second = np.stack([shrunk(part, sum(s[name].count for s in sets)) for part in second])
        moments[name] = Moments(layer, _affine(model, node, layer), second, float(energy))
    source = f"{count} inputs of {' and '.join(kinds)} noise each"
    source += ", matched to BatchNorm statistics" if statistics else ", no BatchNorm statistics to match"
    if given is not None:
        source += f"; {len(next(iter(given.values()), []))} real inputs"
    return Calibration(moments, statistics, noise, skipped, source)


def _affine(model: Model, node: gs.Node, layer: Layer) -> np.ndarray:
    """W and b, float64 [parts, outputs, n + 1]."""
    matrix = layer.matrix(np.asarray(model.constants[layer.weight].values, np.float64))
    column = np.zeros((*matrix.shape[:2], 1))
    if (bias := bias_of(node, layer)) is not None:
        column[...] = np.asarray(bias.values, np.float64).reshape(column.shape)
    return np.concatenate([matrix, column], axis=2)


@dataclass(frozen=True, eq=False)
class _Measured:
    """``second`` and ``energy`` as in ``Moments``, from ``count`` positions."""

    second: np.ndarray
    energy: float
    count: int


def _measure(
    model: Model, found: Mapping[str, tuple[gs.Node, Layer]], inputs: Inputs, seed: int
) -> dict[str, _Measured]:
    """What flows into every layer, and the energy of where its output goes."""
    goal = {name: _destination(node) for name, (node, _) in found.items()}
    wanted = list(dict.fromkeys([*(layer.x for _, layer in found.values()), *goal.values()]))
    total = max((len(x) for x in inputs.values() if x.ndim), default=1)
    second: dict[str, np.ndarray] = {}
    count: dict[str, int] = {}
    sums: dict[str, np.ndarray] = {}  # number, sum and sum of squares of each channel, [3, channels]
    for chunk, values in enumerate(run(model, wanted, inputs)):
        share = max((len(values[name]) for name, x in inputs.items() if x.ndim and name in values), default=1) / total
        for k, (name, (_, layer)) in enumerate(found.items()):
            x = values[layer.x]
            there = layer.positions(x.shape)
            columns = int(model.constants[name].shape[layer.summed]) * layer.taps
            some = min(there, max(1, round(share * max(POSITIONS, 2 * columns))))
            at = np.sort(np.random.default_rng([seed, chunk, k]).choice(there, some, replace=False))
            rows = layer.unfold(x, at).astype(np.float64)
            rows = np.concatenate([rows, np.ones((*rows.shape[:2], 1))], axis=2)
            second[name] = second.get(name, 0.0) + rows.swapaxes(1, 2) @ rows
            count[name] = count.get(name, 0) + some
        for name in set(goal.values()):
            y = _positions(values[name])
            sums[name] = sums.get(name, 0.0) + np.stack([np.full(y.shape[1], len(y)), y.sum(0), (y * y).sum(0)])
    energy = {name: float((s[2] / s[0] - (s[1] / s[0]) ** 2).sum()) for name, s in sums.items()}
    return {name: _Measured(second[name] / count[name], energy[goal[name]], count[name]) for name in found}


def _positions(values: np.ndarray) -> np.ndarray:
    """About ``POSITIONS`` positions of a tensor: float64 [positions, channels].

    Channels are on axis 1 of images, else on the last.
    """
    if values.ndim < 4:
        flat = values.reshape(-1, values.shape[-1])
        return np.asarray(flat[:: max(1, len(flat) // POSITIONS)], np.float64)
    channels = values.shape[1]
    images = values.reshape(len(values), channels, -1)
    step = max(1, images.size // channels // POSITIONS)
    return np.asarray(images[:, :, ::step].swapaxes(1, 2), np.float64).reshape(-1, channels)


def _destination(node: gs.Node) -> str:
    """The tensor an output ends up in: behind scalings and the residual addition that follow directly.

    An error weighs what it is against this tensor: a small branch beside a strong shortcut matters little.
    """
    tensor = node.outputs[0]
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in ("Add", "Mul", "BatchNormalization"):
        reader = tensor.outputs[0]
        computed = [t for t in reader.inputs if not isinstance(t, gs.Constant)]
        if len(computed) == 2 and reader.op == "Add":
            return str(reader.outputs[0].name)
        if len(computed) > 1:
            break
        tensor = reader.outputs[0]
    return str(tensor.name)
