"""Let the query and key dimensions that are left make up for the logits of those that went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration import Calibration, bias_of, layers
from graphprune.calibration.refit import calibrated, write
from graphprune.cut import Gone
from graphprune.model import Model
from graphprune.model.surgeon import is_standard
from graphprune.rules import Dim, Layer
from graphprune.state import State

_RESHAPES = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"])
_KEEP_ROWS = frozenset(["Add", "Cast", "Div", "Identity", "Mul", "Where"])  # between logits and their softmax


@dataclass(frozen=True)
class Compensate:
    """What a product of queries and keys lost, q_P · k_P, as the dimensions that are left can make it: q_S M k_S.

    M is the ridge regression for queries and keys that are drawn apart, and 1 + M goes into the projection of the
    queries (CORP). Their second moments follow from those of what the projections read, so nothing is run. Of keys
    before a softmax only what varies counts. Where more than reshapes, a bias and constant factors lies between
    projection and product, as the rotation of positions does, the product stays as it is.

    Attributes:
        damp: share of the mean power of the dimensions added to each.
    """

    damp: float = 0.01

    approximate: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state with other query projections, or the same state where no product lost dimensions."""
        calibration, going = calibrated(state, "compensate"), state.data.get("cut", {})
        if not going:
            return state
        model, changed, unknown = state.model.copy(), False, 0
        after = _products(model, {})
        for name, (queries, keys, softmax) in _products(state.data["uncut"], going).items():
            gone = going.get(queries.dim)
            if gone is None or name not in after:
                continue
            if not {queries.weight, keys.weight} <= calibration.moments.keys():
                unknown += 1
                continue
            powers = queries.power(calibration, False), keys.power(calibration, softmax)
            after[name][0].mix(model, [self._mixed(q, k, gone) for q, k in zip(*powers, strict=True)])
            changed = True
        if unknown:
            note = f"{unknown} products of queries and keys stay as they are: moments of their inputs were not measured"
            state = replace(state, data={**state.data, "notes": (*state.data.get("notes", ()), note)})
        return replace(state, model=replace(model)) if changed else state

    def _mixed(self, queries: np.ndarray, keys: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """M of one head, float64 [left, left], from the moments of all its dimensions."""

        def explained(moments: np.ndarray) -> np.ndarray:
            kept = moments[np.ix_(~gone, ~gone)]
            ridge = self.damp * np.trace(kept) / len(kept) + 1e-12
            return np.linalg.solve(kept + ridge * np.eye(len(kept)), moments[np.ix_(~gone, gone)])

        return explained(queries) @ explained(keys).T


@dataclass(frozen=True, eq=False)
class _Side:
    """Queries or keys, as what a projection makes of its input.

    Attributes:
        dim: the axis of the operand that is summed over.
        heads: which output of the projection each dimension is: int64 [heads, dimensions].
        node: the projection.
        layer: the same as a matrix product.
        bias: of all outputs, that of an addition behind the node included.
        factor: what the operand was scaled by on the way.
    """

    dim: Dim
    heads: np.ndarray
    node: gs.Node
    layer: Layer
    bias: np.ndarray
    factor: float

    @property
    def weight(self) -> str:
        return self.layer.weight

    def power(self, calibration: Calibration, centred: bool) -> list[np.ndarray]:
        """Second moments of the dimensions of every head, or their covariance: float64 [dimensions, dimensions]."""
        moments = calibration.moments[self.weight]
        matrix = self.factor * np.c_[moments.weights[0, :, :-1], self.bias]
        found = [matrix[rows] @ moments.second[0] for rows in self.heads]
        means = [half[:, -1:] * centred for half in found]
        return [h @ matrix[r].T - m @ m.T for h, r, m in zip(found, self.heads, means, strict=True)]

    def mix(self, model: Model, mixed: list[np.ndarray]) -> None:
        """Let every head's outputs q be q (1 + M)."""
        matrix = np.c_[self.layer.matrix(np.asarray(self.node.inputs[1].values, np.float64))[0], self.bias]
        added = np.zeros_like(matrix)
        for rows, m in zip(self.heads, mixed, strict=True):
            added[rows] += m.T @ matrix[rows]
        own = bias_of(self.node, self.layer)  # is replaced; one behind the node is added to
        start = np.zeros(len(matrix)) if own is None else np.asarray(own.values, np.float64).reshape(-1)
        write(model, self.node, self.layer, np.c_[matrix[:, :-1] + added[:, :-1], start + added[:, -1]][None])


def _products(model: Model, going: Gone) -> Mapping[str, tuple[_Side, _Side, bool]]:
    """Products of two projections by the name of their result: queries, keys, and whether a softmax reads them.

    Of the heads, those that ``going`` leaves.
    """
    projections = {
        layer.y: (node, layer) for node, layer in layers(model)[0].values() if layer.parts == layer.taps == 1
    }
    found = {}
    for node in model.graph.nodes:
        if node.op != "MatMul" or not is_standard(node) or any(isinstance(t, gs.Constant) for t in node.inputs):
            continue
        queries, keys = (
            _side(model, t, axis, projections, going) for t, axis in zip(node.inputs, (-1, -2), strict=True)
        )
        if queries and keys and queries.heads.shape == keys.heads.shape:
            pairs = np.unique(np.stack([queries.heads, keys.heads], axis=1), axis=0)  # the same for all of a batch
            sides = replace(queries, heads=pairs[:, 0]), replace(keys, heads=pairs[:, 1])
            found[node.outputs[0].name] = (*sides, _meets_softmax(node))
    return found


def _side(
    model: Model, operand: gs.Tensor, axis: int, projections: Mapping[str, tuple[gs.Node, Layer]], going: Gone
) -> _Side | None:
    """Where an operand comes from, if only through reshapes, a bias and constant factors that nothing else reads."""
    tensor, factor, steps, bias = operand, 1.0, [], None
    while tensor.name not in projections:
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or len(tensor.outputs) > 1 or not is_standard(node):
            return None
        computed, *constants = sorted(node.inputs, key=lambda t: isinstance(t, gs.Constant))
        if node.op in _RESHAPES or node.op == "Transpose":
            steps.append(node)
            computed = node.inputs[0]
        elif (
            node.op in ("Mul", "Div") and constants and np.size(constants[0].values) == 1 and computed is node.inputs[0]
        ):
            value = float(np.ravel(constants[0].values)[0])
            factor *= value if node.op == "Mul" else 1 / value
        elif node.op == "Add" and constants and isinstance(constants[0], gs.Constant) and computed.name in projections:
            bias = np.asarray(constants[0].values, np.float64).reshape(-1)
        else:
            return None
        tensor = computed
    node, layer = projections[tensor.name]
    outputs = model.constants[layer.weight].shape[1 - layer.summed]
    if (
        len(tensor.outputs) > 1
        or model.shapes[tensor.name][-1] != outputs
        or (bias is not None and len(bias) != outputs)
    ):
        return None
    own = bias_of(node, layer)
    bias = (0.0 if bias is None else bias) + (np.zeros(outputs) if own is None else np.ravel(own.values))
    labels = np.broadcast_to(np.arange(outputs), [n or 1 for n in model.shapes[tensor.name]])
    for step in reversed(steps):
        if step.op == "Transpose":
            labels = labels.transpose(step.attrs.get("perm", range(labels.ndim)[::-1]))
        else:
            labels = labels.reshape([n or 1 for n in model.shapes[step.outputs[0].name]])
    for k in set(range(labels.ndim)) - {axis % labels.ndim}:
        if (gone := going.get(Dim(operand.name, k))) is not None:
            labels = np.compress(~gone, labels, axis=k)
    labels = np.moveaxis(labels, axis, -1)
    if labels.ndim < 2 or (labels != labels[..., :1, :]).any():
        return None  # which output a dimension is depends on the position
    heads = labels[..., 0, :].reshape(-1, labels.shape[-1])
    return _Side(Dim(operand.name, axis % labels.ndim), heads, node, layer, bias, factor)


def _meets_softmax(node: gs.Node) -> bool:
    """Whether the rows of a product go into a softmax: what is added to all of a row then means nothing."""
    tensor = node.outputs[0]
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in _KEEP_ROWS:
        tensor = tensor.outputs[0].outputs[0]
    return (
        len(tensor.outputs) == 1
        and tensor.outputs[0].op == "Softmax"
        and tensor.outputs[0].attrs.get("axis", -1) in (-1, 3)
    )
