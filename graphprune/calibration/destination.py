"""Where the output of a layer ends up, and what its errors are measured against there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs


class Destination(NamedTuple):
    """The tensor an output ends up in: behind scalings and the residual addition that follow directly.

    An error weighs what it is against this tensor: a small branch beside a strong shortcut matters little.

    Attributes:
        tensor: that tensor.
        beside: what is added to the output there, unscaled; ``None`` where nothing is, or the output was scaled before.
    """

    tensor: gs.Tensor
    beside: gs.Tensor | None


def destination(node: gs.Node) -> Destination:
    """Where the first output of a node ends up."""
    tensor, plain = node.outputs[0], True
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in ("Add", "Mul", "BatchNormalization"):
        reader = tensor.outputs[0]
        computed = [t for t in reader.inputs if not isinstance(t, gs.Constant)]
        if len(computed) == 2 and reader.op == "Add":
            other = next((t for t in computed if t is not tensor), None)
            return Destination(reader.outputs[0], other if plain else None)
        if len(computed) > 1:
            break
        plain = plain and reader.op == "Add"
        tensor = reader.outputs[0]
    return Destination(tensor, None)


def size(y: np.ndarray) -> np.ndarray:
    """Root mean square of every row, float64 [rows, 1]."""
    return np.sqrt((y.astype(np.float64) ** 2).mean(axis=1, keepdims=True)) + 1e-12


def normalised(tensor: gs.Tensor) -> bool:
    """Whether a layer or RMS normalisation reads a tensor, in one node or in several.

    It divides every position by its own size, so that an error counts by what it is of that.
    """
    for node in tensor.outputs:
        squares = node.op == "Pow" or (node.op == "Mul" and node.inputs[0] is node.inputs[-1])
        means = node.outputs[0].outputs if squares else [node]
        if "LayerNorm" in node.op or node.op in ("LayerNormalization", "RMSNormalization"):
            return True
        if any(mean.op == "ReduceMean" and _last_axis(mean) for mean in means):
            return True
    return False


def _last_axis(node: gs.Node) -> bool:
    given = node.inputs[1].values if len(node.inputs) > 1 else node.attrs.get("axes", ())
    rank = len(node.inputs[0].shape or ())
    return [int(axis) for axis in np.ravel(given)] in ([-1], [rank - 1])
