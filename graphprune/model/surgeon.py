"""Between ONNX protobufs and graphsurgeon, without losing what graphsurgeon cannot carry.

Attributes of kinds it does not know, and the bodies of If, Loop and Scan, stay protobufs and travel beside their node.
What a body captures from around it becomes an explicit extra input of that node, so that liveness sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from graphprune.collector import paused
from graphprune.model.weights import DataFile, blocks, hold, is_held, is_streamed, refer, stream

# Its warnings are about what this module takes care of.
G_LOGGER.severity = G_LOGGER.ERROR

# graphsurgeon cannot carry these attribute kinds (nor empty lists); they travel beside it, untouched.
_CARRIED = {AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING, AttributeProto.TENSOR}
_CARRIED_LISTS = {AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings"}
_ASIDE = "graphprune.aside"
# Operators whose bodies are analysed and cut like what is around them.
SEEN_INTO = frozenset(["If", "Loop", "Scan"])
# Values below this many bytes stay in the protobuf where the others go to a data file.
SMALLEST_OUTSIDE = 1024


@dataclass(frozen=True)
class _Aside:
    """Attributes kept as protobufs, and how many trailing inputs of the node are captured values of its bodies."""

    attributes: tuple[AttributeProto, ...]
    captured: int


def opaque(node: gs.Node) -> bool:
    """Whether a node carries bodies or other parts kept as protobuf: names it reads must not change."""
    return _ASIDE in node.attrs


def bodies(node: gs.Node) -> tuple[GraphProto, ...]:
    """The bodies of an If, a Loop or a Scan."""
    if node.op not in SEEN_INTO or not opaque(node) or not is_standard(node):
        return ()
    return tuple(a.g for a in node.attrs[_ASIDE].attributes if a.HasField("g"))


def with_bodies(node: gs.Node, new: Sequence[GraphProto], captured: Sequence[gs.Tensor] = ()) -> None:
    """Give a node other bodies, in the order of ``bodies``, that capture the same values, and ``captured`` besides."""
    left = iter(new)
    aside = node.attrs[_ASIDE]
    attributes = (onnx.helper.make_attribute(a.name, next(left)) if a.HasField("g") else a for a in aside.attributes)
    known = {tensor.name for tensor in node.inputs[len(node.inputs) - aside.captured :]}
    more = {tensor.name: tensor for tensor in captured if tensor.name not in known}
    node.inputs.extend(more.values())
    node.attrs[_ASIDE] = _Aside(tuple(attributes), aside.captured + len(more))


def own_inputs(node: gs.Node) -> list[gs.Tensor]:
    """The inputs of a node without what its bodies capture."""
    return list(node.inputs[: len(node.inputs) - node.attrs[_ASIDE].captured] if opaque(node) else node.inputs)


def is_standard(node: gs.Node) -> bool:
    """Whether a node's operator is of the default ONNX domain."""
    return node.domain in (None, "", "ai.onnx")


def redirect(old: gs.Tensor, new: gs.Tensor) -> bool:
    """Let every node that reads ``old`` read ``new``; whether there was any."""
    readers = list(old.outputs)
    for reader in readers:
        reader.inputs = [new if t is old else t for t in reader.inputs]
    return bool(readers)


@paused()
def copy_graph(graph: gs.Graph) -> gs.Graph:
    """A copy whose nodes may be changed; weights, attributes and bodies are shared, tensors of one name become one."""
    made: dict[str, gs.Tensor] = {}

    def copied(tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return gs.Variable.empty()
        if (known := made.get(tensor.name)) is None:
            known = made[tensor.name] = tensor.copy()
        return known

    nodes = [
        gs.Node(n.op, n.name, dict(n.attrs), [*map(copied, n.inputs)], [*map(copied, n.outputs)], n.domain)
        for n in graph.nodes
    ]
    return gs.Graph(
        nodes=nodes,
        inputs=[*map(copied, graph.inputs)],
        outputs=[*map(copied, graph.outputs)],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
        import_domains=graph.import_domains,
        functions=list(graph.functions),
        ir_version=graph.ir_version,
    )


def import_graph(proto: ModelProto, folder: Path = Path()) -> gs.Graph:
    """The graph of a model, with the values of ``Constant`` nodes as constants; ``proto`` is taken over.

    Initializers that refer to a data file, in ``folder``, are streamed from there.
    """
    asides = [_set_aside(node) for node in proto.graph.node]
    graph = gs.import_onnx(proto)
    graph.import_domains = [onnx.helper.make_opsetid(o.domain, o.version) for o in graph.import_domains or ()]
    tensors = graph.tensors()
    for info in proto.graph.initializer:  # read by bodies only
        tensors.setdefault(info.name, gs.Constant(info.name, LazyValues(info)))
    for value in [value for node in graph.nodes for value in node.attrs.values()]:
        if isinstance(value, gs.Constant) and type(value._values) is LazyValues:
            hold(value)
    for tensor in tensors.values():
        lazy = isinstance(tensor, gs.Constant) and type(tensor._values) is LazyValues
        if lazy and tensor._values.tensor.data_location == TensorProto.EXTERNAL:
            stream(tensor, folder)
        elif lazy:
            hold(tensor)
    tensors.update({t.name: t for t in graph.inputs})
    for node, (attributes, captured) in zip(graph.nodes, asides, strict=True):
        if attributes:
            names = [n for n in captured if n in tensors]
            node.inputs.extend([tensors[n] for n in names])  # it is read twice, to tell the tensors of their reader
            node.attrs[_ASIDE] = _Aside(tuple(attributes), len(names))
    _absorb_constant_nodes(graph)
    return graph


def _set_aside(node: NodeProto) -> tuple[list[AttributeProto], list[str]]:
    """Take the attributes graphsurgeon cannot carry out of ``node``; with the outer names that its bodies read."""
    aside: list[AttributeProto] = []
    captured: dict[str, None] = {}
    for attribute in node.attribute:
        carried = attribute.type in _CARRIED or len(getattr(attribute, _CARRIED_LISTS.get(attribute.type, ""), ()))
        if carried and not attribute.ref_attr_name:
            continue
        copy = AttributeProto()
        copy.CopyFrom(attribute)
        aside.append(copy)
        for body in [attribute.g, *attribute.graphs]:
            captured |= dict.fromkeys(reads(body))
    if aside:
        kept = [a for a in node.attribute if not any(a.name == b.name for b in aside)]
        del node.attribute[:]
        node.attribute.extend(kept)
    return aside, list(captured)


def reads(body: GraphProto) -> Iterator[str]:
    """Names a body, or one in it, reads but does not define."""
    local = {i.name for i in body.input} | {t.name for t in body.initializer}
    local |= {t.values.name for t in body.sparse_initializer} | {o for n in body.node for o in n.output}
    for node in body.node:
        inner = [b for a in node.attribute for b in [a.g, *a.graphs]]
        for name in [*node.input, *(r for b in inner for r in reads(b))]:
            if name and name not in local:
                yield name
    yield from (o.name for o in body.output if o.name not in local)


def _absorb_constant_nodes(graph: gs.Graph) -> None:
    """Turn ``Constant`` nodes into initializers; the sparse kind stays a node."""
    kept = []
    for node in graph.nodes:
        if node.op != "Constant" or not is_standard(node) or not node.attrs or opaque(node):
            kept.append(node)
            continue
        kind, value = next(iter(node.attrs.items()))
        if isinstance(value, gs.Constant):
            values = value._values
            if isinstance(values, LazyValues):
                values.tensor.name = node.outputs[0].name
        else:
            dtype = {
                "value_int": np.int64,
                "value_ints": np.int64,
                "value_float": np.float32,
                "value_floats": np.float32,
            }
            values = np.array(value, dtype=dtype.get(kind, object))
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(values)
    graph.nodes[:] = kept


def export_node(node: gs.Node) -> NodeProto:
    """The protobuf of a node, with what was kept aside."""
    aside = node.attrs.get(_ASIDE)
    if aside is None:
        return OnnxExporter.export_node(node)
    names = [t.name for t in node.inputs]
    proto = onnx.helper.make_node(
        node.op,
        names[: len(names) - aside.captured],
        [t.name for t in node.outputs],
        name=node.name,
        domain=node.domain,
    )
    proto.attribute.extend(export_attributes(node))
    return proto


def export_attributes(node: gs.Node) -> list[AttributeProto]:
    """The protobufs of a node's attributes, with what was kept aside."""
    carried = OnnxExporter.export_attributes({k: v for k, v in node.attrs.items() if k != _ASIDE})
    return [*carried, *(node.attrs[_ASIDE].attributes if opaque(node) else ())]


def export_tensor(tensor: gs.Constant, data: DataFile | dict[str, np.ndarray] | None = None) -> TensorProto:
    """The protobuf of a constant; the original one where its values were never touched.

    Args:
        tensor: the constant.
        data: where values go that are not few: a file, or arrays by name. Without it all are in the protobuf.
    """
    if isinstance(data, dict):
        if not is_held(tensor):
            return _export_whole(tensor)
        data[tensor.name] = tensor.values
        return refer(hollow_tensor(tensor), "memory")
    if data is not None and (is_streamed(tensor) or is_held(tensor)):
        return data.add(hollow_tensor(tensor), blocks(tensor))
    proto = _export_whole(tensor)
    if data is not None and len(proto.raw_data) >= SMALLEST_OUTSIDE:
        return data.add(hollow_tensor(tensor), [proto.raw_data])
    return proto


def _export_whole(tensor: gs.Constant) -> TensorProto:
    if not isinstance(tensor._values, LazyValues) or is_streamed(tensor):
        return onnx.numpy_helper.from_array(np.asarray(tensor.values), tensor.name)
    proto = tensor._values.tensor
    if proto.name == tensor.name:
        return proto
    copy = TensorProto()
    copy.CopyFrom(proto)
    copy.name = tensor.name
    return copy


def hollow_tensor(tensor: gs.Constant) -> TensorProto:
    """The protobuf of a constant without its values."""
    return TensorProto(name=tensor.name, data_type=_onnx_dtype(tensor), dims=tensor.shape)


def _onnx_dtype(tensor: gs.Constant) -> int:
    if isinstance(tensor._values, SparseValues):
        return tensor._values.tensor.values.data_type
    if isinstance(tensor._values, LazyValues):
        return tensor._values.tensor.data_type
    return onnx.helper.np_dtype_to_tensor_dtype(tensor.values.dtype)
