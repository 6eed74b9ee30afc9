"""Leave out states that say nothing: initial ones that are zero, and those that a loop never changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model.bodies import handed_on, release
from graphprune.model.surgeon import is_standard, opaque
from graphprune.state import State

# Inputs of an operator that are zero unless given: hidden state, and an LSTM's cell state.
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
# Operators whose results hold the numbers of their first input alone.
_KEEPS_ZERO = frozenset(
    ["Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"]
)


@dataclass(frozen=True)
class FoldStates:
    """Exporters make zeros of the size of the batch and of the layer, and that arithmetic would pin both.

    They also hand the weights of a layer from one run of its loop to the next, where weights are not looked for.
    """

    def __call__(self, state: State) -> State:
        """A state whose recurrent layers are given no zeros, and its loops no constants, or the same state."""
        nodes, outputs = state.model.graph.nodes, state.model.outputs
        zeros = [
            (k, index)
            for k, node in enumerate(nodes)
            for index in (_STATES.get(node.op, ()) if is_standard(node) else ())
            if index < len(node.inputs) and node.inputs[index].name and _is_zero(node.inputs[index])
        ]
        loops = {k: states for k, node in enumerate(nodes) if (states := handed_on(node, outputs))}
        if not zeros and not loops:
            return state
        model = state.model.copy()
        for k, states in loops.items():
            release(model.graph.nodes[k], states)
        for k, index in zeros:
            model.graph.nodes[k].inputs[index] = gs.Variable.empty()
        return replace(state, model=model.with_nodes(model.graph.nodes))


def _is_zero(tensor: gs.Tensor) -> bool:
    if isinstance(tensor, gs.Constant):
        return not np.any(tensor.values)
    made = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if made is None or not is_standard(made) or opaque(made):
        return False
    if made.op == "ConstantOfShape":
        return "value" not in made.attrs or not np.any(made.attrs["value"].values)
    parts = made.inputs if made.op == "Concat" else made.inputs[:1] if made.op in _KEEPS_ZERO else []
    return bool(parts) and all(map(_is_zero, parts))
