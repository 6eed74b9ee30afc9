"""Gradients with respect to activations, as more nodes of the same graph, for onnxruntime to run.

What an operator makes of a change of its inputs, transposed, is a few operators of ONNX again (reverse accumulation;
Griewank & Walther 2008, chapter 3), so that no training framework is needed. Constants get no gradient, and operators
without an entry in the table pass none on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs
from onnx import ModelProto, ValueInfoProto

from graphprune.calibration.adjoints import ADJOINTS, Tape
from graphprune.calls import calls
from graphprune.model import Model
from graphprune.model.surgeon import is_standard

Seed = Callable[[Tape, gs.Variable], gs.Tensor]
"""What the loss's own dependence on a tensor is: the gradient, from the tensor."""


def with_gradients(model: Model, seeds: Mapping[str, Seed], wanted: Sequence[str]) -> tuple[Model, dict[str, str]]:
    """The model with nodes that compute the gradient of a loss.

    Args:
        model: a float32 model with known shapes; the first axis of its inputs may be open.
        seeds: the tensors that the loss depends on.
        wanted: tensors with respect to which gradients are asked for.

    Returns:
        The model with the gradients among its outputs, and their names; tensors that no gradient reaches are left out.
    """
    result = model.copy()
    shaped = [call for _, call in calls(model)]
    tape = Tape(model.opset)
    parts: dict[str, list[gs.Tensor]] = {}

    def total(name: str) -> gs.Tensor:
        if len(parts[name]) > 1:  # of two, onnxruntime adds up faster than it sums
            parts[name] = [tape("Add" if len(parts[name]) == 2 else "Sum", *parts[name])]
        return parts[name][0]

    for node, call in reversed(list(zip(result.graph.nodes, shaped, strict=True))):
        for tensor in node.outputs:
            if tensor.name in seeds:
                parts.setdefault(tensor.name, []).append(seeds[tensor.name](tape, tensor))
        y = node.outputs[0].name
        adjoint = ADJOINTS.get(node.op) if is_standard(node) and len(node.outputs) == 1 else None
        if y not in parts or call is None or adjoint is None:
            continue
        dy = total(y)
        for k, dx in adjoint(tape, node, call, dy):
            if isinstance(node.inputs[k], gs.Variable):
                parts.setdefault(node.inputs[k].name, []).append(dx)
    names = {name: str(total(name).name) for name in wanted if name in parts}
    result.graph.nodes.extend(tape.nodes)
    return replace(result, header=with_outputs(result.header, names.values())), names


def with_outputs(header: ModelProto, names: Iterable[str]) -> ModelProto:
    """A model's header with more outputs."""
    result = ModelProto()
    result.CopyFrom(header)
    result.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return result
