"""Evaluate nodes whose inputs are all constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, ValueInfoProto

from graphprune.model import Model
from graphprune.model.session import session
from graphprune.model.surgeon import export_node, export_tensor, is_standard, opaque, redirect
from graphprune.model.weights import is_streamed
from graphprune.state import State

LARGE = 1 << 20  # bytes that may be stored twice without a thought
_RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


@dataclass(frozen=True)
class FoldConstants:
    """Run the constant part of the graph once, in onnxruntime, and keep its results as initializers.

    A matrix that several layers share through Identity nodes stays one; a vector becomes one for each, for exporters
    store equal biases once that have nothing to do with each other. So does a vector that repeats one number and has
    several readers: what stands for no scale and no shift in every normalisation.

    Attributes:
        growth: results may be this many times larger than what they are computed from, but for a megabyte in all.
    """

    growth: float = 2.0

    def __call__(self, state: State) -> State:
        """A state without nodes that compute constants, or the same state."""
        if any(_copied_matrices(state.model)):
            model = state.model.copy()
            for node in _copied_matrices(model):
                redirect(node.outputs[0], node.inputs[0])
            state = replace(state, model=model.with_nodes(model.graph.nodes))
        if any(_shared_fillings(state.model)):
            model = state.model.copy()
            for node, index in [*_shared_fillings(model)]:
                filling = node.inputs[index]
                node.inputs[index] = gs.Constant(f"{filling.name}:{node.outputs[0].name}:{index}", filling.values)
            state = replace(state, model=model.with_nodes(model.graph.nodes))
        if not _foldable(state.model):
            return state
        model = state.model.copy()
        foldable = _foldable(model)
        kept = {id(n) for n in model.graph.nodes} - {id(n) for n in foldable}
        outputs = {t.name for t in model.graph.outputs}
        results = [
            t
            for node in foldable
            for t in node.outputs
            if t.name and (t.name in outputs or any(id(reader) in kept for reader in t.outputs))
        ]
        values = _run(model, foldable, results)
        if values is None:
            return state
        folded = self._small(foldable, {t.name: v.nbytes for t, v in zip(results, values, strict=True)})
        if not folded:
            return state
        for tensor, value in zip(results, values, strict=True):
            if id(tensor.inputs[0]) in folded:
                tensor.inputs.clear()
                tensor.to_constant(value)
        return replace(state, model=model.with_nodes(n for n in model.graph.nodes if id(n) not in folded))

    def _small(self, nodes: list[gs.Node], made: Mapping[str, int]) -> set[int]:
        """The nodes whose results do not grow too much, by identity; those that read one another go together.

        Args:
            nodes: that compute constants.
            made: bytes of their results, by name.
        """
        parts: dict[int, list[gs.Node]] = {}
        for node in nodes:
            before = {id(p): p for t in node.inputs for n in t.inputs if (p := parts.get(id(n))) is not None}
            own = [*chain.from_iterable(before.values()), node]
            parts |= dict.fromkeys(map(id, own), own)
        growth = []
        for own in {id(part): part for part in parts.values()}.values():
            read = {t.name: t for n in own for t in n.inputs if isinstance(t, gs.Constant)}
            results = sum(made.get(t.name, 0) for n in own for t in n.outputs)
            growth.append((results - self.growth * sum(t.values.nbytes for t in read.values()), own))
        found: set[int] = set()
        total = 0.0
        for more, own in sorted(growth, key=lambda entry: entry[0]):
            total += max(more, 0)
            if total <= LARGE:
                found |= {id(node) for node in own}
        return found


def _copied_matrices(model: Model) -> Iterator[gs.Node]:
    """Nodes that hand a matrix on, to readers that can read it themselves."""
    for node in model.graph.nodes:
        if node.op != "Identity" or not is_standard(node):
            continue
        source, copy = node.inputs[0], node.outputs[0]
        matrix = isinstance(source, gs.Constant) and len(source.shape) > 1
        if matrix and copy.outputs and copy.name not in model.outputs and not any(map(opaque, copy.outputs)):
            yield node


def _shared_fillings(model: Model) -> Iterator[tuple[gs.Node, int]]:
    """Inputs that are a vector of one number repeated, which another input is too; all but the first of each."""
    met: dict[str, bool] = {}  # whether a constant is one
    for node in model.graph.nodes:
        for index, tensor in enumerate(node.inputs if not opaque(node) else ()):
            if not isinstance(tensor, gs.Constant) or len(tensor.outputs) < 2:
                continue
            if met.get(tensor.name):
                yield node, index
            elif tensor.name not in met:
                met[tensor.name] = _is_filling(tensor)


def _is_filling(tensor: gs.Constant) -> bool:
    if (
        getattr(tensor.dtype, "kind", "") != "f"
        or is_streamed(tensor)
        or not prod(tensor.shape) == max(tensor.shape, default=0) > 1
    ):
        return False
    values = np.asarray(tensor.values).reshape(-1)
    return bool((values == values[0]).all())


def _foldable(model: Model) -> list[gs.Node]:
    constant: set[str] = set(model.constants)
    found = []
    for node in model.graph.nodes:
        known = all(t.name in constant or not t.name for t in node.inputs)
        # A dequantised weight would be stored four times larger.
        pure = is_standard(node) and node.op not in _RANDOM and node.op != "DequantizeLinear"
        held = any(is_streamed(t) or _shared(t) for t in node.inputs)
        if known and pure and not opaque(node) and not held and node.inputs:
            constant |= {t.name for t in node.outputs}
            found.append(node)
    return found


def _shared(tensor: gs.Tensor) -> bool:
    """Whether a large weight has other readers, as an embedding that is the last layer too."""
    return isinstance(tensor, gs.Constant) and len(tensor.outputs) > 1 and tensor.values.nbytes > LARGE


def _run(model: Model, nodes: list[gs.Node], results: list[gs.Tensor]) -> list[np.ndarray] | None:
    """The values of ``results``; ``None`` where onnxruntime does not know an operator, type or opset they need."""
    proto = fragment(model, nodes, results)
    try:
        values = session(proto.SerializeToString(), optimise=True).run([t.name for t in results], {})
        return [np.asarray(value) for value in values]
    except Exception:  # onnxruntime raises a class per status code, none of them public
        return None


def fragment(model: Model, nodes: Iterable[gs.Node], outputs: Iterable[gs.Tensor]) -> ModelProto:
    """A protobuf that computes ``outputs`` by ``nodes`` of a model from constants alone."""
    proto = ModelProto(ir_version=model.header.ir_version, opset_import=model.header.opset_import)
    proto.graph.name = "fragment"
    constants: dict[str, gs.Constant] = {}
    for node in nodes:
        proto.graph.node.append(export_node(node))
        constants |= {t.name: t for t in node.inputs if isinstance(t, gs.Constant)}
    proto.graph.initializer.extend(export_tensor(t) for t in constants.values())
    proto.graph.output.extend(ValueInfoProto(name=t.name) for t in outputs)
    return proto
