"""Nodes as their rules see them: with shapes and constants at hand, and what only the nodes around them can tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.model.surgeon import is_standard, own_inputs
from graphprune.rules import Body, Call, Dim, Operand, Routing, Rule, known


def calls(model: Model, nodes: Iterable[gs.Node] | None = None) -> Iterator[tuple[gs.Node, Call | None]]:
    """Every node with its view for rules; ``None`` where a shape is not fully known.

    Args:
        model: the model.
        nodes: those to look at; by default the nodes of the main graph, without what is in bodies.
    """
    constants, shapes, dtypes, opset = model.constants, model.shapes, model.dtypes, model.opset

    def known(tensor: gs.Tensor) -> bool:
        return all(size is not None and size >= 0 for size in shapes.get(tensor.name, (None,)))

    def operand(tensor: gs.Tensor) -> Operand | None:
        if not tensor.name or not (known(tensor) or model.reads(tensor)):
            return None  # an output that nobody reads is as good as omitted
        shape: tuple[int, ...] = shapes[tensor.name]  # type: ignore[assignment]
        own = tensor if isinstance(tensor, gs.Constant) else None  # of a body
        return Operand(tensor.name, shape, constants.get(tensor.name, own), dtypes.get(tensor.name))

    for node in model.graph.nodes if nodes is None else nodes:
        if any(t.name and not known(t) and model.reads(t) for t in boundary(model, node)):
            yield node, None
            continue
        unread = left_out(model, node)
        inside = model.bodies.get(id(node))
        inputs = tuple(map(operand, node.inputs if inside is None else own_inputs(node)))
        outputs = tuple(None if t.name in unread else operand(t) for t in node.outputs)
        if inside is not None:
            bodies = (Body(tuple(map(operand, g.inputs)), tuple(map(operand, g.outputs))) for g in inside)
            yield node, Call(node.op, node_name(node), inputs, outputs, node.attrs, opset, bodies=tuple(bodies))
            continue
        sizes, parts = _sizes(model, node)
        asked = _asked(model, node) if operator(node) == "Shape" else frozenset()
        yield node, Call(node.op, node_name(node), inputs, outputs, node.attrs, opset, sizes, parts, asked)


def _sizes(model: Model, node: gs.Node) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """``sizes`` and ``parts`` of a call, where the rule of its operator says which input is a list of sizes."""
    rule = rule_of(node)
    if rule is None or rule.sizes is None or rule.sizes >= len(node.inputs):
        return (), ()
    given = node.inputs[rule.sizes]
    made: Sequence[gs.Tensor] = [given]
    if len(given.inputs) == 1 and given.inputs[0].op == "Concat":
        made = given.inputs[0].inputs
    elements: list[int | None] = []
    parts: list[int] = []
    for part in made:
        if isinstance(part, gs.Constant):
            own: list[int | None] = [int(n) for n in np.asarray(part.values).reshape(-1)]
        else:
            own = [None] * (next(iter(model.shapes.get(part.name, ())), None) or 0)
            if not own:
                return (), ()
        elements += own
        parts.append(len(own))
    return tuple(elements), tuple(parts)


def _asked(model: Model, node: gs.Node) -> frozenset[int]:
    """The axes whose size is read from what a Shape makes."""
    rank = len(model.shapes[node.inputs[0].name])
    axes = range(rank)[slice(node.attrs.get("start"), node.attrs.get("end"))]
    found: set[int] = set()
    made = list(node.outputs)  # grows: the sizes, and the same in another type
    for sizes in made:
        if model.hands_out(sizes):
            return frozenset(axes)
        for reader in sizes.outputs:
            if reader.op in ("Cast", "Identity"):
                made.extend(reader.outputs)
                continue
            given = [np.asarray(t.values).reshape(-1) for t in reader.inputs[1:] if isinstance(t, gs.Constant)]
            if reader.inputs[0] is not sizes or len(given) < len(reader.inputs) - 1:
                return frozenset(axes)
            if reader.op == "Gather":
                found |= {axes[int(k)] for k in given[0]}
            elif reader.op == "Slice" and len(given) > 1:  # starts, ends, axes, steps
                found |= {*axes[int(given[0][0]) : int(given[1][0]) : int(given[3][0]) if len(given) > 3 else 1]}
            else:
                return frozenset(axes)
    return frozenset(found)


def zero_points(model: Model, rules: Mapping[str, Rule] | None = None) -> dict[str, int]:
    """What stands for 0 in every quantised weight: constants of whole numbers of which all positions have one zero."""
    found: dict[str, set[int]] = {}
    for node in model.nodes:
        rule = rule_of(node, rules)
        for index, at in (rule.zero_points if rule else {}).items():
            weight = node.inputs[index]
            zero = node.inputs[at] if at < len(node.inputs) and node.inputs[at].name else None
            if isinstance(weight, gs.Constant) and getattr(weight.dtype, "kind", "") in "iu":
                known = zero is None or isinstance(zero, gs.Constant)
                values = [0] if zero is None else np.unique(zero.values).tolist() if known else [0, 1]
                found.setdefault(weight.name, set()).update(values)
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def routings(model: Model, rules: Mapping[str, Rule] | None = None) -> Iterator[tuple[gs.Node, Dim, Routing]]:
    """Every node that shares out or chooses along an axis from which positions can be absent, with that axis."""
    return _routings(calls(model, model.nodes), rules)


def _routings(
    called: Iterable[tuple[gs.Node, Call | None]], rules: Mapping[str, Rule] | None
) -> Iterator[tuple[gs.Node, Dim, Routing]]:
    for node, call in called:
        rule = rule_of(node, rules)
        routing = rule.routes(call) if rule and call else None
        if routing is not None and not isinstance(node.inputs[routing.input], gs.Constant):
            yield node, Dim(node.inputs[routing.input].name, routing.axis), routing


# What makes whole numbers from whole numbers and moves them only.
_MOVES_NUMBERS = frozenset(["Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])


def numbered(
    model: Model, called: Sequence[tuple[gs.Node, Call | None]], rules: Mapping[str, Rule] | None
) -> tuple[dict[str, Dim], dict[str, str]]:
    """Where the positions that nodes choose are known to.

    Args:
        model: the model.
        called: every node with its view for rules.
        rules: the table.

    Returns:
        By tensor of whole numbers, the axis whose positions they are; and by tensor in which a node writes such
        numbers, the name of a reader that makes something else of them, so that they cannot be others.
    """
    found: dict[str, Dim] = {}
    strangers: dict[str, str] = {}
    views = {id(node): call for node, call in called}
    for node, dim, routing in _routings(called, rules):
        if routing.numbers is None or routing.numbers >= len(node.outputs):
            continue
        made = node.outputs[routing.numbers]
        size = model.shapes[dim.tensor][dim.axis]
        same = [made]  # grows: the numbers, and the same in another shape or type
        stranger = ""
        for tensor in same:
            if model.hands_out(tensor):
                stranger = tensor.name
            for reader in tensor.outputs:
                if is_standard(reader) and reader.op == "Shape":
                    continue
                if is_standard(reader) and reader.op in _MOVES_NUMBERS and reader.inputs[0] is tensor:
                    same.extend(reader.outputs)
                    continue
                rule, call = rule_of(reader, rules), views.get(id(reader))
                counting = rule.counts(call) if rule and call else None
                places = [k for k, t in enumerate(reader.inputs) if t is tensor]
                lengths = {model.shapes[d.tensor][d.axis] for d in counting.axes} if counting else set()
                if counting is None or places != [counting.numbers] or lengths != {size}:
                    stranger = node_name(reader)
        if stranger:
            strangers[made.name] = stranger
        else:
            found |= dict.fromkeys((tensor.name for tensor in same), dim)
    return found, strangers


def boundary(model: Model, node: gs.Node) -> Iterator[gs.Tensor]:
    """What a node reads and makes; of its bodies what goes in and out, not what they capture: their nodes read that."""
    inside = model.bodies.get(id(node))
    yield from (*(node.inputs if inside is None else own_inputs(node)), *node.outputs)
    for graph in inside or ():
        yield from (*graph.inputs, *graph.outputs)


def left_out(model: Model, node: gs.Node) -> set[str]:
    """Outputs behind the first that nobody reads: they are as good as omitted."""
    return {tensor.name for tensor in node.outputs[1:] if not model.reads(tensor)}


def rule_of(node: gs.Node, rules: Mapping[str, Rule] | None = None) -> Rule | None:
    """The table's entry for a node's operator."""
    return (known() if rules is None else rules).get(operator(node))


def operator(node: gs.Node) -> str:
    """``Conv`` in the default domain, ``domain.Name`` elsewhere."""
    return node.op if is_standard(node) else f"{node.domain}.{node.op}"


def node_name(node: gs.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return str(node.name or (node.outputs[0].name if node.outputs else "") or node.op)
