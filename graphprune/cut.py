"""Removing units, and the law that proves it: cutting a unit equals zeroing its slice of every parameter."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto, helper

from graphprune.calls import calls, routings, rule_of, zero_points
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.model.bodies import own_constants, put_back
from graphprune.model.weights import change
from graphprune.rules import Dim, Operand, Routing, Rule

Drop = Mapping[str, np.ndarray]
"""Group name → the units to remove, int64 [removed]."""

Gone = Mapping[Dim, np.ndarray]
"""Axis → which of its positions go, bool [axis size]."""


def gone(groups: Iterable[Group], drop: Drop) -> dict[Dim, np.ndarray]:
    """The positions of every axis that go when ``drop`` goes; axes that lose nothing are left out."""
    found: dict[Dim, np.ndarray] = {}
    for group in groups:
        units = drop.get(group.name, ())
        if not len(units):
            continue
        going = np.zeros(group.size + 1, bool)  # the last entry serves label -1
        going[np.asarray(units)] = True
        for dim, labels in group.labels.items():
            mask = going[labels]
            found[dim] = found[dim] | mask if dim in found else mask
    return found


def cut(model: Model, going: Gone, rules: Mapping[str, Rule] | None = None) -> Model:
    """A smaller model: weights sliced, attributes repaired, in bodies too; activations follow by themselves."""
    result, copies, graphs = _copy(model)

    def kept(operand: Operand, axis: int) -> np.ndarray:
        dim = operand.dim(axis)
        return np.flatnonzero(~going[dim]) if dim in going else np.arange(operand.shape[axis])

    touched = {dim.tensor for dim in going}
    for node, call in calls(model, model.nodes):
        if call is None or not any(o.name in touched for o in call.present):
            continue
        rule = rule_of(node, rules)
        if rule is not None and rule.repair:
            copy = copies[id(node)]
            _insert(graphs[id(copy)], copy, rule.repair(copy, call, kept) or ())
    inside, result = result.bodies, replace(result)  # with what repairs brought among its constants
    constants = result.constants
    for graph in chain.from_iterable(reversed(inside.values())):  # outer ones first
        constants = {**constants, **own_constants(graph, constants)}
    for dim, mask in going.items():
        if (constant := constants.get(dim.tensor)) is not None:
            left = tuple(int(n) for n in constant.shape)
            left = (*left[: dim.axis], int((~mask).sum()), *left[dim.axis + 1 :])
            change(constant, partial(_without, mask, dim.axis), left)
    for tensor in _variables(result.graph):
        tensor.shape = None  # stale: inferred anew when asked for
    put_back(result.graph.nodes, inside, result.constants)
    return result


def _copy(model: Model) -> tuple[Model, dict[int, gs.Node], dict[int, gs.Graph]]:
    """A copy, its nodes by the identity of those they are copies of, and the graph each of them lies in."""
    result = model.copy()
    copies = {id(old): new for old, new in zip(model.nodes, result.nodes, strict=True)}
    graphs = (result.graph, *chain.from_iterable(result.bodies.values()))
    return result, copies, {id(node): graph for graph in graphs for node in graph.nodes}


def _insert(graph: gs.Graph, node: gs.Node, added: Iterable[gs.Node]) -> None:
    """Put nodes around the one they serve, in order: after it what needs what it makes, before it the others."""
    new = list(added)
    if not new:
        return
    at = next(k for k, other in enumerate(graph.nodes) if other is node)
    made = {id(t) for t in node.outputs}
    before: list[gs.Node] = []
    after: list[gs.Node] = []
    for one in new:
        later = any(id(t) in made for t in one.inputs)
        made |= {id(t) for t in one.outputs} if later else set()
        (after if later else before).append(one)
    graph.nodes[at : at + 1] = [*before, node, *after]


def zeroed(model: Model, going: Gone, rules: Mapping[str, Rule] | None = None) -> Model:
    """The law's other side: the same model with the slices of every parameter silenced instead of removed.

    Silence is 0, or the neutral value the operator's rule names where 0 would divide by zero; of a quantised weight,
    what stands for 0. Other constants of whole numbers are indices and sizes, not parameters, and stay. Where something
    is shared out or chosen by logits, those of what goes are minus infinity: it gets nothing, and is never chosen.
    """
    result, copies, graphs = _copy(model)
    zeros = zero_points(model, rules)
    neutral: dict[str, float] = {**zeros}
    for node in model.nodes:
        rule = rule_of(node, rules)
        for index, value in (rule.neutral if rule else {}).items():
            if index < len(node.inputs):
                neutral[node.inputs[index].name] = value
    constants = result.constants
    for dim, mask in going.items():
        constant = constants.get(dim.tensor)
        if constant is not None and (constant.dtype.kind == "f" or dim.tensor in zeros):
            change(constant, partial(_silenced, mask, dim.axis, neutral.get(dim.tensor, 0.0)), tuple(constant.shape))
    for node, dim, routing in routings(model, rules):
        if dim in going:
            copy = copies[id(node)]
            _mask(graphs[id(copy)], copy, routing, gs.Constant(f"{dim}:gone", going[dim]), model)
    inside, result = result.bodies, replace(result)  # with the masks among its constants
    put_back(result.graph.nodes, inside, result.constants)
    return result


def absentable(model: Model, dims: Collection[Dim]) -> Model:
    """The model with an input for each of some axes that routers choose from: which positions are absent, bool [size].

    It is called like the axis, with ``:gone`` behind it. Routers within bodies are left as they are.
    """
    result, copies, graphs = _copy(model)
    header = ModelProto()
    header.CopyFrom(model.header)
    masks: dict[Dim, gs.Tensor] = {}
    for dim in dims:
        size = model.shapes[dim.tensor][dim.axis]
        masks[dim] = gs.Variable(f"{dim}:gone", np.bool_, (size,))
        header.graph.input.append(helper.make_tensor_value_info(f"{dim}:gone", TensorProto.BOOL, (size,)))
    result.graph.inputs.extend(masks.values())
    for node, dim, routing in routings(model):
        copy = copies[id(node)]
        if dim in masks and graphs[id(copy)] is result.graph:
            _mask(result.graph, copy, routing, masks[dim], model)
    sizes = {mask.name: tuple(mask.shape) for mask in masks.values()}
    return replace(result, header=header, input_shapes={**model.input_shapes, **sizes})


def _mask(graph: gs.Graph, node: gs.Node, routing: Routing, gone: gs.Tensor, model: Model) -> None:
    """Let a node find minus infinity where ``gone``, bool [size], is true along the axis that it chooses from."""
    logits = node.inputs[routing.input]
    shape = [1] * len(model.shapes[logits.name])
    shape[routing.axis] = -1
    name = f"{node.outputs[0].name}:{logits.name}"
    along = gs.Constant(f"{name}:shape", np.array(shape, np.int64))
    never = gs.Constant(f"{name}:never", np.array(-np.inf, model.dtypes.get(logits.name, np.dtype(np.float32))))
    spread, masked = gs.Variable(f"{name}:gone"), gs.Variable(f"{name}:masked")
    node.inputs[routing.input] = masked
    reshape = gs.Node("Reshape", spread.name, inputs=[gone, along], outputs=[spread])
    where = gs.Node("Where", masked.name, inputs=[spread, never, logits], outputs=[masked])
    _insert(graph, node, [reshape, where])


def _without(mask: np.ndarray, axis: int, rows: np.ndarray, at: slice) -> np.ndarray:
    return np.ascontiguousarray(np.compress(~_of_rows(mask, axis, at), rows, axis=axis))


def _silenced(mask: np.ndarray, axis: int, silence: float, rows: np.ndarray, at: slice) -> np.ndarray:
    values = np.array(rows)
    values[(slice(None),) * axis + (_of_rows(mask, axis, at),)] = silence
    return values


def _of_rows(mask: np.ndarray, axis: int, at: slice) -> np.ndarray:
    """The part of an axis's mask that concerns some rows of the first axis."""
    return mask[at] if axis == 0 else mask


def _variables(graph: gs.Graph) -> Iterable[gs.Variable]:
    interface = {t.name for t in (*graph.inputs, *graph.outputs)}
    return [t for t in graph.tensors().values() if isinstance(t, gs.Variable) and t.name not in interface]
