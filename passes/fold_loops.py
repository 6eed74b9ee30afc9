"""Write out loops that fill a sequence in a known number of runs, and take tensors out of sequences of known parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.model.surgeon import bodies, copy_graph, is_standard, opaque, own_inputs
from graphprune.state import State

Sequences = dict[str, list[gs.Tensor]]
"""What sequences hold, by name."""


@dataclass(frozen=True)
class FoldLoops:
    """TorchScript writes a ``tensor_split`` as such a loop, and no axis can be followed through a sequence.

    Loops of tensors are left: rules see into those.

    Attributes:
        runs: of a loop that is written out, at most.
    """

    runs: int = 16

    def __call__(self, state: State) -> State:
        """A state whose model has tensors in the place of sequences, or the same state where that cannot be."""
        if not any(node.op == "SequenceAt" and is_standard(node) for node in state.model.graph.nodes):
            return state
        model = state.model.copy()
        around = model.graph.tensors()
        written = [
            new
            for node in model.graph.nodes
            for new in (_written_out(node, model, around) if _is_known(node, model, self.runs) else [node])
        ]
        sequences: Sequences = {}
        folded = model.with_nodes([new for node in written for new in _resolved(node, sequences)])
        if any(node.op == "Identity" and node.inputs[0].name in sequences for node in folded.graph.nodes):
            return state  # a sequence that was written out is read in a way that is not known
        return replace(state, model=folded)


def _is_known(node: gs.Node, model: Model, most: int) -> bool:
    """Whether a node is a loop of states alone, a sequence among them, that always runs so many times."""
    if node.op != "Loop" or not bodies(node) or id(node) not in model.bodies:
        return False
    (body,) = bodies(node)
    (graph,) = model.bodies[id(node)]
    trips, again, *states = own_inputs(node)
    goes_on = graph.outputs[0]
    while len(goes_on.inputs) == 1 and goes_on.inputs[0].op == "Identity":
        goes_on = goes_on.inputs[0].inputs[0]
    return (
        any(info.type.HasField("sequence_type") for info in body.input)
        and len(states) == len(node.outputs)
        and isinstance(trips, gs.Constant)
        and int(trips.values.reshape(())) <= most
        and (not again.name or _is_true(again))
        and (goes_on is graph.inputs[1] or _is_true(goes_on))
        and not any(map(opaque, graph.nodes))
    )


def _is_true(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and bool(np.all(tensor.values))


def _written_out(node: gs.Node, model: Model, around: Mapping[str, gs.Tensor]) -> Iterator[gs.Node]:
    """The nodes of all runs, one after another; what run it is has the rank that the body declares."""
    (body,) = model.bodies[id(node)]
    ranks = [len(info.type.tensor_type.shape.dim) for info in bodies(node)[0].input[:2]]
    trips, _, *states = own_inputs(node)
    for run in range(int(trips.values.reshape(()))):
        copy = copy_graph(body)
        number = gs.Constant(f"{node.outputs[0].name}:run{run}", np.full((1,) * ranks[0], run, np.int64))
        first = gs.Constant(f"{node.outputs[0].name}:again{run}", np.full((1,) * ranks[1], True))
        known = {**around, **dict(zip((t.name for t in copy.inputs), (number, first, *states), strict=True))}
        for inner in copy.nodes:
            inner.inputs = [known.get(t.name, t) if t.name else t for t in inner.inputs]
        states = [known.get(t.name, t) for t in copy.outputs[1:]]
        for name, tensor in copy.tensors().items():
            if name not in known:
                tensor.name = f"{name}:run{run}"
        for inner in copy.nodes:
            inner.name = inner.outputs[0].name  # bodies may use the same names for their nodes, not for their tensors
            yield inner
    for state, output in zip(states, list(node.outputs), strict=True):
        yield gs.Node("Identity", f"{output.name}:last", inputs=[state], outputs=[output])


def _resolved(node: gs.Node, sequences: Sequences) -> Iterator[gs.Node]:
    """What stands in the place of a node that reads a sequence of known parts; notes what such nodes make."""
    parts = sequences.get(node.inputs[0].name) if node.inputs else None
    output = node.outputs[0] if node.outputs else None
    at = node.inputs[1 if node.op == "SequenceAt" else 2] if _has_place(node) else None
    place = int(at.values.reshape(())) if isinstance(at, gs.Constant) else None
    if output is None or not is_standard(node) or (at is not None and place is None):
        yield node
    elif node.op == "SequenceAt" and parts is not None and place is not None and -len(parts) <= place < len(parts):
        yield gs.Node("Identity", node.name, inputs=[parts[place]], outputs=[output])
    elif node.op == "ConcatFromSequence" and parts and not node.attrs.get("new_axis", 0):
        yield gs.Node("Concat", node.name, {"axis": node.attrs["axis"]}, parts, [output])
    else:
        if node.op == "SequenceEmpty":
            sequences[output.name] = []
        elif node.op == "SequenceConstruct":
            sequences[output.name] = list(node.inputs)
        elif node.op == "Identity" and parts is not None:
            sequences[output.name] = parts
        elif node.op == "SequenceInsert" and parts is not None:
            index = len(parts) if place is None else place
            sequences[output.name] = [*parts[:index], node.inputs[1], *parts[index:]]
        yield node


def _has_place(node: gs.Node) -> bool:
    return node.op == "SequenceAt" or (
        node.op == "SequenceInsert" and len(node.inputs) > 2 and node.inputs[2].name != ""
    )
