"""Remove what does nothing: identities, dropouts, empty pads, times one, plus zero, and everything nobody reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.model.surgeon import is_standard, opaque, redirect
from graphprune.model.weights import is_streamed
from graphprune.state import State


@dataclass(frozen=True)
class Clean:
    """Bypass nodes that hand their input on unchanged, then drop dead nodes and unread constants.

    Names of graph inputs and outputs never change; an identity between two of them stays.
    """

    def __call__(self, state: State) -> State:
        """A state with fewer nodes, or the same state."""
        model = state.model.copy()
        before = len(model.graph.nodes)
        interface = {t.name for t in (*model.graph.inputs, *model.graph.outputs)}
        bypassed = set()
        for node in model.graph.nodes:
            source = _left(node, model) if is_standard(node) else None
            if source is None:
                continue
            result = node.outputs[0]
            if any(opaque(reader) for reader in [*source.outputs, *result.outputs]):
                continue
            if result.name not in interface:
                redirect(result, source)
            elif source.name not in interface and len(source.inputs) == 1 and not isinstance(source, gs.Constant):
                # The graph output takes the place of the tensor it copies.
                producer = source.inputs[0]
                redirect(source, result)
                node.outputs.clear()
                producer.outputs = [result if t is source else t for t in producer.outputs]
            else:
                continue
            bypassed.add(id(node))
        cleaned = model.with_nodes(n for n in model.graph.nodes if id(n) not in bypassed)
        return state if len(cleaned.graph.nodes) == before else replace(state, model=cleaned)


def _left(node: gs.Node, model: Model) -> gs.Tensor | None:
    """The input that a node hands on unchanged, if it does."""
    if opaque(node) or not node.inputs:
        return None
    if node.op in ("Add", "Mul"):
        neutral = {"Add": _is_zero, "Mul": _is_one}[node.op]
        pairs = [(a, b) for a, b in (node.inputs, [*node.inputs][::-1]) if neutral(b) and _fits(b, a, model)]
        return pairs[0][0] if pairs else None
    return node.inputs[0] if _does_nothing(node, model) else None


def _is_one(tensor: gs.Tensor) -> bool:
    return _is_number(tensor) and bool((np.asarray(tensor.values) == 1).all())


def _is_zero(tensor: gs.Tensor) -> bool:
    """Whether a tensor is the product of something and zeros."""
    made = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    factors = made.inputs if made is not None and made.op == "Mul" and is_standard(made) else []
    return any(_is_number(factor) and not np.any(factor.values) for factor in factors)


def _is_number(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and tensor.dtype in (np.float32, np.float64) and not is_streamed(tensor)


def _fits(other: gs.Tensor, x: gs.Tensor, model: Model) -> bool:
    """Whether what is made of x and another, element by element, is of the shape of x, whatever sizes there are."""
    shape, size = model.symbolic_shapes.get(x.name), model.symbolic_shapes.get(other.name)
    if isinstance(x, gs.Constant) or shape is None or size is None or len(size) > len(shape):
        return False
    under = shape[len(shape) - len(size) :]
    return all(n == 1 or (n is not None and n == k) for n, k in zip(size, under, strict=True))


def _does_nothing(node: gs.Node, model: Model) -> bool:
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        inference = training is None or (isinstance(training, gs.Constant) and not np.any(training.values))
        mask = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1].name else None
        unread = mask is None or (not mask.outputs and mask.name not in model.outputs)
        return bool(inference and unread)
    if node.op == "Pad":
        pads = node.attrs.get("pads")
        if pads is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
            pads = node.inputs[1].values
        return pads is not None and not np.any(pads)
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == sorted(perm)
    return False
