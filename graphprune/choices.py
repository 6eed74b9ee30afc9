"""Two models made to choose alike: nearly equal numbers have no order that rounding would leave alone.

Detectors sort hundreds of scores that differ by less than a rounding, and then the boxes that come out have nothing in
common. So the numbers that are chosen from are compared, and all else once both models choose the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.proof import Arrays

# Operators that put numbers in order, and the output that says which.
_CHOICES = {"ArgMax": 0, "ArgMin": 0, "NonMaxSuppression": 0, "TopK": 1}


def choices(model: Model) -> dict[str, tuple[str, ...]]:
    """The tensors that say what was chosen, by name, each with those it was chosen from and, of TopK, the chosen."""
    found = {}
    for node in model.graph.nodes:
        for place in _says(model, node):
            numbers = [t.name for t in node.inputs if isinstance(t, gs.Variable) and _kind(model, t) == "f"]
            numbers += [t.name for t in node.outputs[:place] if node.op == "TopK"]
            if model.reads(node.outputs[place]):
                found[node.outputs[place].name] = tuple(numbers)
    return found


def _says(model: Model, node: gs.Node) -> list[int]:
    """The outputs that say what a node chooses; of one with bodies that choose, all of whole numbers."""
    if node.op in _CHOICES:
        return [place for place in (_CHOICES[node.op],) if place < len(node.outputs)]
    if any(_says(model, inner) for body in model.bodies.get(id(node), ()) for inner in body.nodes):
        return [place for place, tensor in enumerate(node.outputs) if _kind(model, tensor) == "i"]
    return []


def _kind(model: Model, tensor: gs.Tensor) -> str:
    return getattr(model.dtypes.get(tensor.name), "kind", "")


def choosing(model: Model, chosen: Arrays) -> Model:
    """The model with what it chooses given. It goes on choosing, but nothing reads that: its own outputs alone say so.

    Args:
        model: unchanged.
        chosen: what is chosen, by names from ``choices``.
    """
    result = model.copy()
    nodes = []
    for node in result.graph.nodes:
        nodes.append(node)
        for place, tensor in enumerate(node.outputs):
            if tensor.name not in chosen:
                continue
            values = np.ascontiguousarray(chosen[tensor.name])
            constant, given = (
                gs.Constant(f"{tensor.name}:chosen", values),
                gs.Variable(f"{tensor.name}:given", values.dtype),
            )
            # Copied by an operator that shapes are not told by the values of, as those of a long list are not at hand.
            nodes.append(gs.Node("Transpose", given.name, {"perm": [*range(values.ndim)]}, [constant], [given]))
            _read_instead(tensor, given)
            if node.op == "TopK":  # the numbers that it sorts, in the order that is given
                best = node.outputs[1 - place]
                picked = gs.Variable(f"{best.name}:given", best.dtype)
                _read_instead(best, picked)
                axis = {"axis": node.attrs.get("axis", -1)}
                nodes.append(gs.Node("GatherElements", picked.name, axis, [node.inputs[0], given], [picked]))
    result.graph.nodes[:] = nodes
    return replace(result)


def _read_instead(tensor: gs.Tensor, other: gs.Tensor) -> None:
    for reader in list(tensor.outputs):
        reader.inputs = [other if one is tensor else one for one in reader.inputs]
