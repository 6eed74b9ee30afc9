"""What onnx's checker lets pass, and all that follows takes for granted: types that exist, tensors with all values."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from graphprune.errors import InvalidModelError

_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_COMPLEX = frozenset([TensorProto.COMPLEX64, TensorProto.COMPLEX128])
# Sub-byte types, several values to a byte.
_BITS = {t: 4 for t in _TYPES if TensorProto.DataType.Name(t).endswith(("INT4", "FLOAT4E2M1"))}
_BITS |= {t: 2 for t in _TYPES if TensorProto.DataType.Name(t).endswith("INT2")}
# More elements than any tensor of a model that can be run: a product beyond it is a mistake or an attack.
LARGEST = 1 << 40


def check(proto: ModelProto, name: str) -> None:
    """Look at every type and every tensor of a model.

    Raises:
        InvalidModelError: with the first that makes no sense.
    """
    for tensor in tensors(proto):
        if complaint := _complaint(tensor):
            raise InvalidModelError(f"{name}: tensor '{tensor.name}' {complaint}", "export the model again")
    for info in proto.graph.input:
        if info.type.HasField("tensor_type") and not info.type.tensor_type.elem_type:
            raise InvalidModelError(f"{name}: input '{info.name}' has no type", "export the model again")
    for info in _infos(proto):
        if (unknown := next(_unknown_types(info.type), None)) is not None:
            raise InvalidModelError(f"{name}: '{info.name}' has the unknown type {unknown}", "export the model again")
        sizes = [d.dim_value for d in info.type.tensor_type.shape.dim if d.dim_value > 0]
        if prod(sizes) > LARGEST:
            raise InvalidModelError(f"{name}: '{info.name}' has {prod(sizes):.1e} elements", "no machine can run that")
    inputs = {info.name: info for info in proto.graph.input}
    for info in proto.graph.output:
        if (same := inputs.get(info.name)) is not None and not _meet(same, info):
            raise InvalidModelError(
                f"{name}: '{info.name}' is {_sizes(same)} as an input and {_sizes(info)} as an output",
                "export the model again",
            )


def tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: weights, sparse ones' parts, attributes; also in bodies and functions."""
    for graph in _graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(proto):
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _graphs(proto: ModelProto) -> Iterator[GraphProto]:
    yield proto.graph
    for node in _nodes(proto):
        yield from _bodies(node)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else []
        yield from attribute.graphs


def _nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """All nodes, with those of bodies; a list and no recursion, for bodies may be nested deeply."""
    waiting = [*(list(f.node) for f in proto.functions), list(proto.graph.node)]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting.extend(list(body.node) for body in _bodies(node))


def _infos(proto: ModelProto) -> Iterator[ValueInfoProto]:
    for graph in _graphs(proto):
        yield from (*graph.input, *graph.output, *graph.value_info)


def _sizes(info: ValueInfoProto) -> list[int | str]:
    """As declared; what is open has a name, if any."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in info.type.tensor_type.shape.dim]


def _meet(one: ValueInfoProto, other: ValueInfoProto) -> bool:
    """Whether a tensor can have both shapes; sizes of 0 are open."""
    if not (one.type.tensor_type.HasField("shape") and other.type.tensor_type.HasField("shape")):
        return True
    pairs = list(zip(_sizes(one), _sizes(other), strict=False))
    fit = all(a == b or not (a and b) or isinstance(a, str) or isinstance(b, str) for a, b in pairs)
    return fit and len(pairs) == len(_sizes(one)) == len(_sizes(other))


def _unknown_types(kind: TypeProto) -> Iterator[int]:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        found = getattr(kind, which).elem_type
        yield from [found] if found not in _TYPES | {TensorProto.UNDEFINED} else []
    elif which in ("sequence_type", "optional_type"):
        yield from _unknown_types(getattr(kind, which).elem_type)
    elif which == "map_type":
        yield from _unknown_types(kind.map_type.value_type)


def _complaint(tensor: TensorProto) -> str:
    """What is wrong with a tensor, if anything."""
    if tensor.data_type not in _TYPES:
        return f"has the unknown type {tensor.data_type}"
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    if tensor.data_location == TensorProto.EXTERNAL:
        return ""
    elements = prod(tensor.dims)
    bits = _BITS.get(tensor.data_type)
    if tensor.HasField("raw_data"):
        size = (elements * bits + 7) // 8 if bits else elements * _bytes(tensor.data_type)
        return "" if len(tensor.raw_data) == size else f"holds {len(tensor.raw_data)} bytes in place of {size}"
    stored = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    values = elements * (2 if tensor.data_type in _COMPLEX else 1)
    entries = (values * bits + 7) // 8 if bits else values
    found = len(getattr(tensor, stored))
    return "" if found == entries else f"holds {found} values in place of {values}"


def _bytes(data_type: int) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
