"""Fold scale and shift of a normalisation into the matrix products that read it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.model.surgeon import is_standard
from graphprune.state import State

_NORMS = frozenset(["LayerNormalization", "RMSNormalization"])


@dataclass(frozen=True)
class FoldNorms:
    """``norm(x) · γ + β`` before ``W`` is ``norm(x)`` before ``γ W`` with ``β W`` added (Ashkboos et al. 2024).

    What is left of the normalisation has a scale of 1 and no shift, so that it treats all channels alike. One that
    something else than products with a constant matrix of its own reads is left as it is.
    """

    def __call__(self, state: State) -> State:
        """A state with plain normalisations, or the same state."""
        model = state.model.copy()
        added: list[gs.Node] = []
        folded = False
        for norm in model.graph.nodes:
            if (readers := _readers(norm, model)) is None:
                continue
            scale, shift = (_values(norm, k) for k in (1, 2))
            assert scale is not None
            if (scale == 1).all() and (shift is None or not shift.any()):
                continue
            folded = True
            for reader in readers:
                added += _absorb(reader, scale, np.zeros_like(scale) if shift is None else shift)
            plain = gs.Constant(f"{norm.outputs[0].name}:scale", np.ones_like(norm.inputs[1].values))
            norm.inputs = [norm.inputs[0], plain]
        if not folded:
            return state
        model.graph.nodes.extend(added)
        if added:
            model.graph.toposort()
        return replace(state, model=model.with_nodes(model.graph.nodes))


def _readers(norm: gs.Node, model: Model) -> list[gs.Node] | None:
    """The nodes that read a normalisation of the last axis with a constant scale, if all of them can take it."""
    if norm.op not in _NORMS or not is_standard(norm) or any(model.reads(t) for t in norm.outputs[1:]):
        return None
    result = norm.outputs[0]
    rank = len(model.shapes.get(result.name, ()))
    if not rank or norm.attrs.get("axis", -1) not in (-1, rank - 1) or result.name in model.outputs:
        return None
    given = [t for t in norm.inputs[1:] if t.name]
    if not all(isinstance(t, gs.Constant) and len(t.shape) == 1 for t in given):
        return None
    return list(result.outputs) if result.outputs and all(_takes(r, result) for r in result.outputs) else None


def _takes(reader: gs.Node, result: gs.Tensor) -> bool:
    if not is_standard(reader) or reader.op not in ("MatMul", "Gemm") or reader.inputs[0] is not result:
        return False
    weight, *bias = reader.inputs[1:]
    own = isinstance(weight, gs.Constant) and len(weight.shape) == 2 and len(weight.outputs) == 1
    if reader.op == "MatMul":
        return own
    plain = not reader.attrs.get("transA", 0) and all(reader.attrs.get(n, 1.0) == 1.0 for n in ("alpha", "beta"))
    return own and plain and all(isinstance(b, gs.Constant) for b in bias if b.name)


def _values(norm: gs.Node, index: int) -> np.ndarray | None:
    there = len(norm.inputs) > index and norm.inputs[index].name
    return np.asarray(norm.inputs[index].values, np.float64) if there else None


def _absorb(reader: gs.Node, scale: np.ndarray, shift: np.ndarray) -> list[gs.Node]:
    """Let a product of plain inputs be what it was of scaled and shifted ones; nodes to add for that."""
    weight = reader.inputs[1]
    values = np.asarray(weight.values, np.float64)
    summed = 1 if reader.op == "Gemm" and reader.attrs.get("transB", 0) else 0
    moved = np.tensordot(shift, values, (0, summed))
    scaled = values * (scale[:, None] if summed == 0 else scale)
    reader.inputs[1] = gs.Constant(weight.name, scaled.astype(weight.dtype))
    if not moved.any():
        return []
    output = reader.outputs[0]
    if reader.op == "Gemm":
        bias = reader.inputs[2] if len(reader.inputs) > 2 and reader.inputs[2].name else None
        reader.inputs = [*reader.inputs[:2], _plus(bias, moved, f"{output.name}:bias", weight.dtype)]
        return []
    adder = output.outputs[0] if len(output.outputs) == 1 else None
    if adder is not None and adder.op == "Add" and is_standard(adder):
        place = next(k for k, t in enumerate(adder.inputs) if t is not output)
        bias = adder.inputs[place]
        if isinstance(bias, gs.Constant) and tuple(bias.shape) == moved.shape:
            adder.inputs[place] = _plus(bias, moved, f"{adder.outputs[0].name}:bias", weight.dtype)
            return []
    reader.outputs[0] = inner = gs.Variable(f"{output.name}:unshifted")
    constant = gs.Constant(f"{output.name}:shift", moved.astype(weight.dtype))
    return [gs.Node("Add", f"{output.name}:shifted", inputs=[inner, constant], outputs=[output])]


def _plus(bias: gs.Constant | None, moved: np.ndarray, name: str, dtype: np.dtype) -> gs.Constant:
    """A bias with something added, under its own name where nothing else reads it."""
    if bias is None:
        return gs.Constant(name, moved.astype(dtype))
    values = (np.asarray(bias.values, np.float64) + moved).astype(dtype)
    return gs.Constant(bias.name if len(bias.outputs) == 1 else name, values)
