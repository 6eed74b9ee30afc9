"""Remove what does nothing: identities, inference-time dropouts, empty pads, and everything nobody reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.model.surgeon import is_standard, opaque, redirect
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
            if not _does_nothing(node, model):
                continue
            source, result = node.inputs[0], node.outputs[0]
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


def _does_nothing(node: gs.Node, model: Model) -> bool:
    if not is_standard(node) or opaque(node):
        return False
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
