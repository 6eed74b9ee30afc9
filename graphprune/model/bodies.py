"""The bodies of If, Loop and Scan: graphs inside a node that read what lies around them by name.

On loading, every tensor of every body gets a name that no other tensor has, and the weights of bodies move out of them,
to be read from around like whatever else they capture. So an axis has one name wherever it is met, all weights are in
one place, and a node of a body is seen like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphprune.errors import InvalidModelError
from graphprune.model.shapes import SHAPE_VALUES, Shape, infer
from graphprune.model.surgeon import (
    SEEN_INTO,
    bodies,
    export_node,
    export_tensor,
    hollow_tensor,
    import_graph,
    opaque,
    own_inputs,
    reads,
    redirect,
    with_bodies,
)

Within = dict[int, tuple[gs.Graph, ...]]
"""The bodies of nodes, those of nodes in bodies included, by the identity of their node."""


# ------------------------------------------------------------------------------------------------------------ loading


def separate(graph: GraphProto) -> None:
    """Give every tensor of the bodies of If, Loop and Scan a name of its own, and move their weights into ``graph``."""
    taken = set(_defined(graph))
    for node in graph.node:
        for body in _of(node) if node.op_type in SEEN_INTO and not node.domain else ():
            graph.initializer.extend(_separated(body, {}, taken))


def _of(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else []
        yield from attribute.graphs


def _defined(graph: GraphProto) -> Iterator[str]:
    yield from (info.name for info in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _separated(body: GraphProto, around: Mapping[str, str], taken: set[str]) -> list[TensorProto]:
    """Rename what a body defines, and take its weights out of it.

    Args:
        body: changed in place.
        around: the new names of what lies around it, where they are others.
        taken: all names so far; grows.
    """
    names = {**around, **{name: _new(name, taken) for name in dict.fromkeys(_defined(body))}}
    for info in (*body.input, *body.output):
        info.name = names.get(info.name, info.name)
    for tensor in (*body.initializer, *(sparse.values for sparse in body.sparse_initializer)):
        tensor.name = names[tensor.name]
    del body.value_info[:]
    found: list[TensorProto] = []
    for node in body.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
        for inner in _of(node):
            found += _separated(inner, names, taken)
    return found + _weights_out_of(body, taken)


def _new(name: str, taken: set[str]) -> str:
    k, found = 0, name
    while found in taken:
        k, found = k + 1, f"{name}:{k + 1}"
    taken.add(found)
    return found


def _weights_out_of(body: GraphProto, taken: set[str]) -> list[TensorProto]:
    """Remove the weights of a body; one that the body hands out is copied there."""
    found: list[TensorProto] = []
    inputs, outputs = {i.name for i in body.input}, {o.name for o in body.output}
    kept, nodes = [], []

    def copied(tensor: TensorProto) -> None:
        if tensor.name in outputs:
            name = tensor.name
            tensor.name = _new(f"{name}:weight", taken)
            nodes.append(helper.make_node("Identity", [tensor.name], [name]))
        found.append(tensor)

    for tensor in body.initializer:
        if _is_weight(tensor) and tensor.name not in inputs:
            copied(_copy(tensor, tensor.name))
        else:
            kept.append(_copy(tensor, tensor.name))
    for node in body.node:
        value = node.attribute[0] if node.op_type == "Constant" and not node.domain and node.attribute else None
        if value is not None and value.name == "value" and _is_weight(value.t):
            copied(_copy(value.t, node.output[0]))
        else:
            nodes.append(NodeProto())
            nodes[-1].CopyFrom(node)
    if found:
        del body.initializer[:], body.node[:]
        body.initializer.extend(kept)
        body.node.extend(nodes)
    return found


def _copy(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _is_weight(tensor: TensorProto) -> bool:
    """Whether a constant has channels: floating-point or 8-bit numbers along at least one axis."""
    quantized = tensor.data_type in (TensorProto.INT8, TensorProto.UINT8)
    floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return (quantized or floating) and len(tensor.dims) > 0


# ------------------------------------------------------------------------------------------------- reading and writing


def within(nodes: Sequence[gs.Node], header: ModelProto, constants: Mapping[str, gs.Constant]) -> Within:
    """The bodies of ``nodes`` and of the nodes in them, as graphs of their own with the constants they read.

    Args:
        nodes: of one graph.
        header: says which operators there are.
        constants: those around, by name.
    """
    found: Within = {}
    opset = next((o.version for o in header.opset_import if o.domain in ("", "ai.onnx")), 1)
    for node in nodes:
        graphs = []
        if (node.op == "Scan" and opset < 9) or any(body.sparse_initializer for body in bodies(node)):
            continue  # of batches then; what lies in them sparsely cannot be cut
        for body in bodies(node):
            proto = ModelProto(ir_version=header.ir_version, opset_import=header.opset_import)
            proto.graph.CopyFrom(body)
            graph = import_graph(proto)
            copies: dict[str, gs.Constant] = {}
            for inner in graph.nodes:
                for k, tensor in enumerate(inner.inputs):
                    if tensor.name in constants and not isinstance(tensor, gs.Constant):
                        inner.inputs[k] = copies.setdefault(tensor.name, constants[tensor.name].copy())
            graphs.append(graph)
            found |= within(graph.nodes, header, {**constants, **own_constants(graph, constants)})
        if graphs:
            found[id(node)] = tuple(graphs)
    return found


def own_constants(graph: gs.Graph, around: Collection[str]) -> dict[str, gs.Constant]:
    """The constants that a body has itself: sizes, indices and single numbers."""
    read = [*(t for node in graph.nodes for t in node.inputs), *graph.outputs]
    return {t.name: t for t in read if isinstance(t, gs.Constant) and t.name not in around}


def put_back(nodes: Sequence[gs.Node], inside: Within, around: Collection[str]) -> None:
    """Give ``nodes`` the bodies of ``inside``, which were changed; sizes of what passes in and out are left open.

    Args:
        nodes: of the graph around.
        inside: of ``within``, for these very nodes.
        around: names of constants that lie around and are not written into a body.
    """
    for node in nodes:
        if id(node) not in inside:
            continue
        written = []
        for body, graph in zip(bodies(node), inside[id(node)], strict=True):
            own = own_constants(graph, around)
            put_back(graph.nodes, inside, {*around, *own})
            proto = GraphProto(name=body.name, doc_string=body.doc_string)
            proto.input.extend(map(_open, body.input))
            proto.output.extend(map(_open, body.output))
            proto.node.extend(map(export_node, graph.nodes))
            proto.initializer.extend(map(export_tensor, own.values()))
            written.append(proto)
        with_bodies(node, written)


def _open(info: ValueInfoProto) -> ValueInfoProto:
    """The same tensor of any size."""
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    for dim in copy.type.tensor_type.shape.dim if copy.type.HasField("tensor_type") else ():
        dim.Clear()
    return copy


def handed_on(node: gs.Node, wanted: Collection[str] = ()) -> list[int]:
    """Which states a Loop hands on from run to run and never changes, but for those whose outcome is wanted.

    Exporters pass the weights of a layer through its loop. Those of a Scan stay: onnxruntime itself computes something
    else where a Scan hands on what it was given (seen in 1.31), so that nothing could be proved.
    """
    if node.op != "Loop" or not bodies(node):
        return []
    (body,) = bodies(node)
    handed = [info.name for info in body.output]
    return [
        k
        for k, outcome in enumerate(node.outputs[: len(own_inputs(node)) - 2])
        if (name := body.input[k + 2].name) == handed[k + 1]
        and handed.count(name) == 1
        and outcome.name not in wanted
        and not any(map(opaque, outcome.outputs))
    ]


def release(node: gs.Node, states: Sequence[int]) -> None:
    """Let the body of a Loop read states of ``handed_on`` from around it, where they are like all else."""
    (body,) = bodies(node)
    copy = GraphProto()
    copy.CopyFrom(body)
    around = {body.input[k + 2].name: node.inputs[k + 2] for k in states}
    for k in states:
        redirect(node.outputs[k], node.inputs[k + 2])
    for k in sorted(states, reverse=True):
        del copy.input[k + 2], copy.output[k + 1], node.inputs[k + 2], node.outputs[k]
    _read_instead(copy, {name: tensor.name for name, tensor in around.items()})
    with_bodies(node, [copy], list(around.values()))


def _read_instead(body: GraphProto, names: Mapping[str, str]) -> None:
    for node in body.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in _of(node):
            _read_instead(inner, names)


# ------------------------------------------------------------------------------------------------------------- shapes


def measure(
    nodes: Sequence[gs.Node],
    inside: Within,
    header: ModelProto,
    constants: Mapping[str, gs.Constant],
    shapes: Mapping[str, Shape],
    types: Mapping[str, int],
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes and element types of all tensors in the bodies of ``nodes``, as far as they are the same in every run.

    Args:
        nodes: of one graph.
        inside: their bodies.
        header: says which operators there are.
        constants: those around, by name.
        shapes: of the tensors around.
        types: of the tensors around that are no constants.
    """
    found: dict[str, Shape] = {}
    kinds: dict[str, int] = {}
    for node in nodes:
        for graph in inside.get(id(node), ()):
            given = dict(zip((t.name for t in graph.inputs), _given(node, shapes, types), strict=False))
            own = own_constants(graph, constants)
            proto = ModelProto(ir_version=header.ir_version, opset_import=header.opset_import)
            proto.graph.name = graph.name
            proto.graph.node.extend(map(export_node, graph.nodes))
            read = {*reads(proto.graph), *(t.name for t in graph.outputs)}
            captured = {n: (kind, shapes.get(n)) for n, kind in types.items() if kind and n in read and n not in given}
            for name, (kind, shape) in {**given, **captured}.items():
                proto.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
            known = {n: c for n, c in constants.items() if n in read} | own
            for constant in known.values():
                small = prod(constant.shape) <= SHAPE_VALUES
                proto.graph.initializer.append(export_tensor(constant) if small else hollow_tensor(constant))
            proto.graph.output.extend(ValueInfoProto(name=t.name) for t in graph.outputs)
            try:
                seen, seen_kinds = infer(proto, node.op, {})
            except InvalidModelError:
                continue
            local = {n: tuple(k if isinstance(k, int) else None for k in s) for n, s in seen.items()}
            local |= {name: tuple(int(n) for n in constant.shape) for name, constant in own.items()}
            if not _steady(node, graph, local):
                continue
            found |= {name: shape for name, shape in local.items() if name not in shapes}
            kinds |= {name: kind for name, kind in seen_kinds.items() if name not in types}
            deeper = measure(
                graph.nodes, inside, header, {**constants, **own}, {**shapes, **local}, {**types, **seen_kinds}
            )
            found |= deeper[0]
            kinds |= deeper[1]
    return found, kinds


def _given(node: gs.Node, shapes: Mapping[str, Shape], types: Mapping[str, int]) -> Iterator[tuple[int, Shape | None]]:
    """Element type and shape of every input of a body."""
    read = own_inputs(node)
    if node.op == "Loop":
        yield from ((TensorProto.INT64, ()), (TensorProto.BOOL, ()))  # which run it is, and whether there is another
        read = read[2:]
    first = len(read) - node.attrs["num_scan_inputs"] if node.op == "Scan" else len(read)
    axes = node.attrs.get("scan_input_axes") or [0] * (len(read) - first)
    for k, tensor in enumerate(read):
        shape = shapes.get(tensor.name)
        if shape and k >= first:
            axis = int(axes[k - first]) % len(shape)
            shape = (*shape[:axis], *shape[axis + 1 :])
        constant = hollow_tensor(tensor).data_type if isinstance(tensor, gs.Constant) else TensorProto.FLOAT
        yield types.get(tensor.name) or constant, shape


def _steady(node: gs.Node, graph: gs.Graph, shapes: Mapping[str, Shape]) -> bool:
    """Whether what a body hands on to its next run is of the size it was given."""
    if node.op == "If":
        return True
    given = graph.inputs[2:] if node.op == "Loop" else graph.inputs[: len(graph.inputs) - node.attrs["num_scan_inputs"]]
    made = graph.outputs[1:] if node.op == "Loop" else graph.outputs
    return all(shapes.get(a.name) == shapes.get(b.name) for a, b in zip(given, made, strict=False))
