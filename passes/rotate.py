"""Turn a residual stream so that its channels are its principal components."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.activations import assorted, batched, positions, real, run
from graphprune.errors import NothingToPruneError
from graphprune.groups import Group, analyse
from graphprune.model import Model
from graphprune.model.surgeon import is_standard
from graphprune.rules import Dim
from graphprune.state import State

# Linear in each operand that has the channels, or moving them about as a whole.
_LINEAR = frozenset(["Add", "Cast", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Gemm", "Identity", "MatMul"])
_LINEAR |= {"ReduceMean", "ReduceSum", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Sub", "Sum", "Transpose"}
_LINEAR |= {"Unsqueeze"}
_SUMS = frozenset(["Add", "Sub", "Sum"])
_NORMS = frozenset(["LayerNormalization", "RMSNormalization"])
# A sum of squares over all channels is the same from any side.
_LENGTHS = frozenset(["ReduceL2", "ReduceSumSquare"])


@dataclass(frozen=True)
class Rotate:
    """Rotate every weight that a residual stream touches by one orthogonal matrix (Ashkboos et al. 2024, SliceGPT).

    Nothing changes: RMS norms see lengths only, and what is linear is turned back where it is read. LayerNormalizations
    become RMS norms, their subtraction of the mean going into the weights that write the stream. Scales of norms must
    be folded first (``fold_norms``). Afterwards channels are sorted by how much flows through them, and scored by it: a
    choice, and ``cut``, remove the width that matters least. One matrix for the whole network needs none in between.

    Attributes:
        inputs: how many inputs are made up to find the principal components.
        seed: of these inputs.
        spread: range of the floating-point inputs as a pair.
        given: whether real inputs, which the caller left in ``data["inputs"]``, are used instead.
    """

    inputs: int = 24
    seed: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)
    given: bool = False

    mixes: ClassVar[bool] = True

    def __call__(self, state: State) -> State:
        """A state with rotated streams and ``scores`` for their groups: the share of the signal in each channel."""
        if self.given:
            real(state.data)  # missed before the work, not within it
        model, notes = state.model, list(state.data.get("notes", ()))
        shares: dict[Dim, np.ndarray] = {}
        for group in filter(state.selects, analyse(model, inexact=True).groups):
            measuring = _measuring(model, group)
            if not measuring:
                continue
            if why := _obstacle(model, group):
                notes.append(f"the stream of {group.name} is not rotated: {why}")
                continue
            centred = any(node.op == "LayerNormalization" for node in measuring)
            basis, share = _basis(self._second(state, group, centred=centred), centred=centred)
            model = _rotated(model, group, basis)
            first = group.weights[0]
            shares[first] = share[group.labels[first]]
            half = share[: len(share) // 2].sum()
            notes.append(f"the stream of {group.name} is rotated: half of its channels hold {half:.1%} of it")
        if not shares:
            raise NothingToPruneError(
                f"{model.name} has no residual stream that can be rotated" + (f"; {notes[-1]}" if notes else ""),
                "scales of norms have to be folded: put fold_norms before rotate",
            )
        result = replace(state, model=model, data={**state.data, "notes": tuple(notes)})
        scores = {
            group.name: _by_unit(group, dim, share)
            for group in result.groups
            for dim, share in shares.items()
            if dim in group.labels
        }
        return replace(result, scores=scores)

    def _second(self, state: State, group: Group, *, centred: bool) -> np.ndarray:
        """The mean of x xᵀ / |x|² over all places where the stream is normalised, x by unit: float64 [units, units]."""
        model = batched(state.model)
        names = list(dict.fromkeys(node.inputs[0].name for node in _measuring(model, group)))
        given = real(state.data) if self.given else assorted(model, self.inputs, self.seed, self.spread)
        total = np.zeros((group.size, group.size))
        for values in run(model, names, given):
            for name in names:
                axis, labels = next((dim.axis, at) for dim, at in group.labels.items() if dim.tensor == name)
                x = positions(np.moveaxis(values[name], axis, -1).reshape(-1, group.size))[:, np.argsort(labels)]
                x = x - x.mean(axis=1, keepdims=True) if centred else x
                lengths = np.square(x).sum(axis=1, keepdims=True)
                total += x.T @ (x / np.where(lengths > 0, lengths, 1.0)) / len(x)
        return total / len(names)


def _measuring(model: Model, group: Group) -> list[gs.Node]:
    """The nodes by which the stream is normalised: norms, and sums of squares over all channels."""
    on = {dim.tensor for dim in group.labels}
    return [
        node
        for node in model.graph.nodes
        if is_standard(node)
        and node.inputs
        and node.inputs[0].name in on
        and (node.op in _NORMS or node.op in _LENGTHS or _squares(node))
    ]


def _squares(node: gs.Node) -> bool:
    """Whether a node squares every number, only for these to be summed up."""
    same = node.op == "Mul" and node.inputs[0] is node.inputs[1]
    power = (
        node.op == "Pow" and isinstance(node.inputs[1], gs.Constant) and (np.asarray(node.inputs[1].values) == 2).all()
    )
    readers = node.outputs[0].outputs if same or power else ()
    return bool(readers) and all(reader.op in ("ReduceMean", "ReduceSum") for reader in readers)


def _obstacle(model: Model, group: Group) -> str:
    """Why a rotation of the group's units would change what the model computes; nothing if it would not."""
    on = {dim.tensor for dim in group.labels}
    if any(not np.array_equal(np.sort(labels), np.arange(group.size)) for labels in group.labels.values()):
        return "not every unit is one position of every axis"
    if any(model.constants[dim.tensor].dtype.kind != "f" for dim in group.weights):
        return "its weights are quantised"
    centred = any(node.op == "LayerNormalization" for node in _measuring(model, group))
    free: set[str] = set()  # tensors whose mean over channels, if they ever had one, does not matter any more
    for node in model.graph.nodes:
        read, made = ([t for t in tensors if t.name in on] for tensors in (node.inputs, node.outputs))
        if not read and not made:
            continue
        computed = [t for t in read if isinstance(t, gs.Variable)]
        if node.op in _NORMS or (all(t.name in free for t in computed) and computed):
            free.update(t.name for t in made)
        constant = any(isinstance(t, gs.Constant) for t in read)
        if not is_standard(node) or not _turns(model, node, on):
            return f"{node.op} at '{node.name or node.outputs[0].name}' does not treat all directions alike"
        if centred and constant and not made and not all(t.name in free for t in computed):
            return f"'{node.name or node.outputs[0].name}' reads it with its mean, which the norms take away"
    return ""


def _turns(model: Model, node: gs.Node, on: set[str]) -> bool:
    """Whether a node that reads or makes a stream commutes with its rotation."""
    read, made = ([t for t in tensors if t.name in on] for tensors in (node.inputs, node.outputs))
    if node.op in _NORMS:
        scale, *shift = node.inputs[1:]
        plain = isinstance(scale, gs.Constant) and (np.asarray(scale.values) == 1).all()
        return bool(plain and not any(t.name and np.any(t.values) for t in shift))
    if node.op in _LENGTHS:
        return not made
    if node.op in ("Mul", "Pow") and _squares(node):
        return not any(t.name in on for reader in node.outputs[0].outputs for t in reader.outputs)
    if node.op in ("Mul", "Div"):
        other = [t for t in node.inputs if t.name not in on]
        one_number = all(model.shapes.get(t.name, (None,))[-1:] in ((), (1,)) for t in other)
        return len(other) == 1 and one_number and (node.op == "Mul" or other[0] is node.inputs[1])
    if node.op in ("ReduceMean", "ReduceSum"):
        source = read[0].inputs[0] if read and read[0].inputs else None
        return bool(made) or (source is not None and _squares(source))
    if node.op in _SUMS:
        return len(read) == len(node.inputs)
    if node.op in ("Conv", "Gemm"):
        bias = [t for t in node.inputs[2:] if t.name]
        return node.attrs.get("group", 1) == 1 and (not made or all(t.name in on for t in bias))
    return node.op in _LINEAR


def _basis(second: np.ndarray, *, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """The matrix to multiply rows of the stream with, float64 [units, units], and the share of the signal by unit."""
    values, vectors = np.linalg.eigh(second)
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    vectors = vectors * np.where(np.abs(vectors).max(axis=0) == vectors.max(axis=0), 1, -1)
    if centred:
        vectors = vectors - vectors.mean(axis=0)
    return vectors, values / (values.sum() or 1.0)


def _rotated(before: Model, group: Group, basis: np.ndarray) -> Model:
    model = before.copy()
    norms = [node for node in _measuring(model, group) if node.op in _NORMS]
    own = {t.name for node in norms for t in node.inputs[1:]}
    for dim in group.weights:
        if dim.tensor in own:
            continue
        constant, labels = model.constants[dim.tensor], group.labels[dim]
        values = np.moveaxis(np.asarray(constant.values, np.float64), dim.axis, 0)[np.argsort(labels)]
        turned = (basis.T @ values.reshape(group.size, -1)).reshape(values.shape)[labels]
        constant.values = np.ascontiguousarray(np.moveaxis(turned, 0, dim.axis)).astype(constant.dtype)
    for node in norms:
        if node.op == "LayerNormalization":
            _without_mean(model, node, group.size)
    return model.with_nodes(model.graph.nodes)


def _without_mean(model: Model, norm: gs.Node, size: int) -> None:
    """Put x / √(Σx² / n + ε) in the place of a LayerNormalization of the last axis."""
    x, y = norm.inputs[0], norm.outputs[0]
    dtype = norm.inputs[1].dtype
    power, mean, variance, deviation = (
        gs.Variable(f"{y.name}:{part}", dtype) for part in ("power", "mean", "ε", "root")
    )
    axes = gs.Constant(f"{y.name}:axes", np.array([-1]))
    summed = ({"keepdims": 1}, [x, axes]) if model.opset >= 18 else ({"keepdims": 1, "axes": [-1]}, [x])
    share = gs.Constant(f"{y.name}:share", np.array(1 / size, dtype))
    epsilon = gs.Constant(f"{y.name}:epsilon", np.array(norm.attrs.get("epsilon", 1e-5), dtype))
    norm.outputs.clear()
    at = next(k for k, node in enumerate(model.graph.nodes) if node is norm)
    model.graph.nodes[at : at + 1] = [
        gs.Node("ReduceSumSquare", power.name, *summed, [power]),
        gs.Node("Mul", mean.name, inputs=[power, share], outputs=[mean]),
        gs.Node("Add", variance.name, inputs=[mean, epsilon], outputs=[variance]),
        gs.Node("Sqrt", deviation.name, inputs=[variance], outputs=[deviation]),
        gs.Node("Div", norm.name, inputs=[x, deviation], outputs=[y]),
    ]


def _by_unit(group: Group, dim: Dim, share: np.ndarray) -> np.ndarray:
    """The values at the positions of an axis, by the units of a group that is on it."""
    found = np.zeros(group.size)
    labels = group.labels[dim]
    found[labels[labels >= 0]] = share[labels >= 0]
    return found
