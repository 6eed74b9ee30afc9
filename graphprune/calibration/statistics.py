"""What BatchNorm remembers of real data, and how to make noise look like it.

Every normalised tensor is scaled and shifted, channel by channel, to the moments that the training data had there, so
that noise cannot drift away from the truth with depth. Yin et al. 2020, "DeepInversion", optimise images until they
meet these moments; here they are imposed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import Inputs, run
from graphprune.model import Model

FAR = 8.0  # squared standard deviations off what is remembered: means and spreads off by two each
LEAST = 0.1  # channels that vary less than this share of the median count as if they varied so much

Statistics = Mapping[str, Mapping[str, np.ndarray]]
"""Tensor → "mean" and "std" of its channels (axis 1), float64 [channels]."""


def in_graph(model: Model) -> Statistics:
    """The moments that the BatchNormalizations of a graph gave their training data."""
    return {
        node.outputs[0].name: remembered(node)
        for node in model.graph.nodes
        if node.op == "BatchNormalization" and all(isinstance(t, gs.Constant) for t in node.inputs[1:5])
    }


def remembered(norm: gs.Node) -> dict[str, np.ndarray]:
    """The moments that one BatchNormalization with constant parameters gave its training data.

    A channel that hardly varied there has less than its scale as its spread, because of what is added to its variance.
    """
    scale, shift, _, variance = (np.asarray(t.values, np.float64) for t in norm.inputs[1:5])
    whole = variance + norm.attrs.get("epsilon", 1e-5)
    varied = np.clip(np.divide(variance, whole, out=np.zeros_like(whole), where=whole > 0), 0, 1)
    return {"mean": shift, "std": np.abs(scale) * np.sqrt(varied)}


def tolerance(wanted: np.ndarray) -> np.ndarray:
    """Added to a standard deviation before dividing by it: a channel that noise does not move must not be blown up."""
    return 1e-3 * wanted + 1e-6


def observed(model: Model, statistics: Statistics, inputs: Inputs) -> Statistics:
    """The moments of ``inputs`` at every tensor of ``statistics``, all tensors before it being made to meet theirs."""
    known = sorted({t.name for node in model.graph.nodes for t in node.outputs if t.name in statistics})
    if not known:
        return {}
    measuring = _after(model, known, lambda node, k: _measured(node, k, statistics[node.outputs[k].name], model))
    wanted = [f"{name}:{part}" for name in known for part in ("mean", "variance")]
    sums: dict[str, np.ndarray] = {}
    chunks = 0
    for values in run(measuring, wanted, inputs):
        chunks += 1
        for name in wanted:
            sums[name] = sums.get(name, 0.0) + values[name].astype(np.float64).reshape(-1)
    return {
        name: {"mean": sums[f"{name}:mean"] / chunks, "std": np.sqrt(sums[f"{name}:variance"] / chunks)}
        for name in known
    }


def mismatch(model: Model, statistics: Statistics, inputs: Inputs) -> float:
    """How far the moments of ``inputs`` are off those of ``statistics``: squared, in spreads, the mean over tensors.

    Of every channel that of the mean and that of the spread are added up, as ``matching`` does.
    """
    sums: dict[str, np.ndarray] = {}
    for values in run(model, list(statistics), inputs):
        for name in statistics:
            x = values[name].astype(np.float32, copy=False).reshape(*values[name].shape[:2], -1)
            squares = (x[..., None, :] @ x[..., None])[..., 0, 0]
            parts = np.stack([np.full(squares.shape, x.shape[2], np.float64), x.sum(2), squares])
            sums[name] = sums.get(name, 0.0) + parts.sum(axis=1)
    off = []
    for name, (count, total, square) in sums.items():
        mean, wanted = total / count, statistics[name]["std"]
        std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
        unit = np.maximum(wanted, LEAST * np.median(wanted)) + 1e-12
        off.append(np.mean(((mean - statistics[name]["mean"]) / unit) ** 2 + ((std - wanted) / unit) ** 2))
    return float(np.mean(off)) if off else 0.0


def imposed(model: Model, statistics: Statistics, found: Statistics) -> Model:
    """The model with every tensor that has moments as ``found`` scaled and shifted to those of ``statistics``."""

    def scaled(node: gs.Node, k: int) -> list[gs.Node]:
        name = node.outputs[k].name
        wanted, had = statistics[name], found[name]
        scale = wanted["std"] / (had["std"] + tolerance(wanted["std"]))
        return _scaled(node, k, scale, wanted["mean"] - scale * had["mean"], len(model.shapes[name]))

    return _after(model, found, scaled)


def shrunk(second: np.ndarray, count: int) -> np.ndarray:
    """Second moments with their correlations drawn in, where there are fewer than two samples for each input.

    Oracle approximating shrinkage (Chen et al. 2010, equation 23) of the covariance, here towards its diagonal.

    Args:
        second: mean of x xᵀ, x ending in a 1: float64 [n + 1, n + 1].
        count: number of samples.
    """
    mean = second[:-1, -1]
    covariance = second[:-1, :-1] - np.outer(mean, mean)
    n = len(covariance)
    if count >= 2 * n:
        return second
    power, square = np.trace(covariance) ** 2, (covariance**2).sum()
    apart = (count + 1 - 2 / n) * (square - power / n)
    share = min(1.0, ((1 - 2 / n) * square + power) / apart) if apart > 0 else 0.0
    result = second.copy()
    result[:-1, :-1] -= share * (covariance - np.diag(np.diagonal(covariance)))
    return result


# ------------------------------------------------------------------------------------------------------------- parts


def _after(model: Model, tensors: Collection[str], more: Callable[[gs.Node, int], list[gs.Node]]) -> Model:
    """The model with more nodes behind some tensors; ``more`` renames the output and makes the tensor anew from it."""
    if not tensors:
        return model
    result = model.copy()
    nodes: list[gs.Node] = []
    for node in result.graph.nodes:
        nodes.append(node)
        for k, tensor in enumerate(list(node.outputs)):
            if tensor.name in tensors:
                nodes += more(node, k)
    result.graph.nodes[:] = nodes
    return replace(result)


def _dtype(node: gs.Node) -> np.dtype:
    """The floating-point type a node computes in."""
    known = [t.dtype for t in (*node.inputs, *node.outputs) if t.dtype is not None]
    return next((np.dtype(d) for d in known if getattr(np.dtype(d), "kind", "") == "f"), np.dtype(np.float32))


def _along(rank: int) -> tuple[int, ...]:
    return (1, -1, *[1] * (rank - 2))


def _measured(node: gs.Node, index: int, wanted: Mapping[str, np.ndarray], model: Model) -> list[gs.Node]:
    """Nodes that shift and scale an output to the wanted moments of the batch, leaving what it had as tensors."""
    tensor, dtype = node.outputs[index], _dtype(node)
    name, rank = tensor.name, len(model.shapes[tensor.name])
    target, std = (wanted[part].reshape(_along(rank)) for part in ("mean", "std"))

    def variable(part: str) -> gs.Variable:
        return gs.Variable(f"{name}:{part}", dtype)

    def constant(part: str, values: np.ndarray) -> gs.Constant:
        return gs.Constant(f"{name}:{part}", values.astype(dtype))

    def mean_of(source: gs.Variable, result: gs.Variable) -> gs.Node:
        axes = [axis for axis in range(rank) if axis != 1]
        if model.opset < 18:
            return gs.Node("ReduceMean", attrs={"axes": axes, "keepdims": 1}, inputs=[source], outputs=[result])
        listed = gs.Constant(f"{result.name}:axes", np.array(axes, np.int64))
        return gs.Node("ReduceMean", attrs={"keepdims": 1}, inputs=[source, listed], outputs=[result])

    raw, mean, centred, square = variable("raw"), variable("mean"), variable("centred"), variable("square")
    variance, root, least = variable("variance"), variable("root"), variable("least")
    scale, scaled = variable("scale"), variable("scaled")
    node.outputs[index] = raw
    return [
        mean_of(raw, mean),
        gs.Node("Sub", inputs=[raw, mean], outputs=[centred]),
        gs.Node("Mul", inputs=[centred, centred], outputs=[square]),
        mean_of(square, variance),
        gs.Node("Sqrt", inputs=[variance], outputs=[root]),
        gs.Node("Add", inputs=[root, constant("tolerance", tolerance(std))], outputs=[least]),
        gs.Node("Div", inputs=[constant("wanted_std", std), least], outputs=[scale]),
        gs.Node("Mul", inputs=[centred, scale], outputs=[scaled]),
        gs.Node("Add", inputs=[scaled, constant("wanted_mean", target)], outputs=[tensor]),
    ]


def _scaled(node: gs.Node, index: int, scale: np.ndarray, shift: np.ndarray, rank: int) -> list[gs.Node]:
    tensor, dtype = node.outputs[index], _dtype(node)
    raw, product = gs.Variable(f"{tensor.name}:raw", dtype), gs.Variable(f"{tensor.name}:scaled", dtype)
    node.outputs[index] = raw
    factor = gs.Constant(f"{tensor.name}:scale", scale.reshape(_along(rank)).astype(dtype))
    term = gs.Constant(f"{tensor.name}:shift", shift.reshape(_along(rank)).astype(dtype))
    return [
        gs.Node("Mul", inputs=[raw, factor], outputs=[product]),
        gs.Node("Add", inputs=[product, term], outputs=[tensor]),
    ]
