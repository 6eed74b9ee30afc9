"""Sizes of tensors: which are open in the interface, what they are bound to, and what follows for every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx import ModelProto, ValueInfoProto

from graphprune.errors import InvalidModelError, UsageError
from graphprune.model.session import session
from graphprune.model.surgeon import export_attributes, opaque
from graphprune.model.wellformed import LARGEST

_SHAPE_OF = "graphprune:shape of "

# Values of up to this many elements may say what shape something has.
SHAPE_VALUES = 1024

Shape = tuple[int | None, ...]
SymbolicShape = tuple[int | str | None, ...]

# What strict inference says behind an operator it knows no shapes for, such as GroupNormalization: no misfit.
_SIZES_HINT = "give real input sizes with --input-shape NAME:1,3,224,224"
_UNTYPED = "expected to have type but instead is null"


def symbolic_axes(info: ValueInfoProto) -> set[int]:
    """The axes of an interface tensor whose size the file leaves open."""
    return {k for k, dim in enumerate(info.type.tensor_type.shape.dim) if not _is_fixed(dim)}


def _is_fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Some exporters write -1 or 0 for a size they leave open."""
    return bool(dim.HasField("dim_value") and dim.dim_value > 0)


def symbol(dim: onnx.TensorShapeProto.Dimension) -> str:
    """The name of an open size, equal names being equal sizes; some exporters write "?", which names nothing."""
    return dim.dim_param if dim.dim_param.strip("?") else ""


def sum_of(name: str) -> list[str]:
    """The names that a size is the sum of: exporters call that of a mask "past_sequence_length + sequence_length"."""
    return [part.strip() for part in name.split("+")] if "+" in name else []


def bind(
    inputs: list[ValueInfoProto], shapes: dict[str, tuple[int, ...]], params: dict[str, int]
) -> dict[str, tuple[int, ...]]:
    """The concrete shape of every input: as given by input or by symbol, else 1, 224 or 64 (see ``model.load``).

    A size whose name is a sum of others' follows from them.

    Raises:
        UsageError: what is given does not fit the inputs.
    """
    bound = {}
    names = {info.name for info in inputs}
    if stray := sorted(set(shapes) - names):
        raise UsageError(f"no input is called '{stray[0]}'", f"the inputs are {', '.join(sorted(names))}")
    known = {symbol(d) for info in inputs for d in info.type.tensor_type.shape.dim} - {""}
    if stray := sorted(set(params) - known):
        raise UsageError(
            f"no symbolic dimension is called '{stray[0]}'", f"the model has {', '.join(sorted(known)) or 'none'}"
        )
    sizes_given = [(f"size of input '{n}'", k) for n, shape in shapes.items() for k in shape]
    for what, size in [*sizes_given, *((f"symbolic dimension '{n}'", k) for n, k in params.items())]:
        if size < 1:
            raise UsageError(f"{what} must be above 0, not {size}", "give the size of a real input")
    for info in sorted(inputs, key=lambda info: any(sum_of(symbol(d)) for d in info.type.tensor_type.shape.dim)):
        dims = info.type.tensor_type.shape.dim
        given = shapes.get(info.name)
        if given is not None and len(given) != len(dims) and info.type.tensor_type.HasField("shape"):
            raise UsageError(f"input '{info.name}' has rank {len(dims)}, but {len(given)} sizes were given", "")
        if given is not None and not info.type.tensor_type.HasField("shape"):
            bound[info.name] = tuple(given)
            continue
        sizes = []
        for axis, dim in enumerate(dims):
            if _is_fixed(dim):
                size = dim.dim_value
                if given is not None and given[axis] != size:
                    raise UsageError(f"axis {axis} of input '{info.name}' is fixed to {size}, not {given[axis]}", "")
            elif given is not None:
                size = given[axis]
                if name := symbol(dim):  # one name, one size: the other inputs follow
                    params.setdefault(name, size)
            else:
                size = _guess(symbol(dim), axis, len(dims), params)
            sizes.append(int(size))
        bound[info.name] = tuple(sizes)
    for name, shape in bound.items():
        if (count := prod(shape)) > LARGEST:
            raise UsageError(f"input '{name}' would have {count:.1e} elements", "give the size of a real input")
    return {info.name: bound[info.name] for info in inputs}


def _guess(name: str, axis: int, rank: int, params: dict[str, int]) -> int:
    """The size of an open axis that nobody gave; other axes of its name follow."""
    parts = sum_of(name)
    if parts and name not in params and all(part in params for part in parts):
        return sum(params[part] for part in parts)
    image = rank == 4 and axis >= 2 and "past" not in name
    guess = 1 if axis == 0 else 224 if image else 64
    return params.setdefault(name, guess) if name else guess


def infer(
    model: ModelProto, name: str, input_shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[dict[str, SymbolicShape], dict[str, int]]:
    """Shapes and element types of all tensors that are no initializers, by onnx's inference with data propagation.

    Args:
        model: weights that no shape depends on may be left out.
        name: of the model, for messages.
        input_shapes: concrete sizes for the inputs; without them, sizes stay symbolic, equal names being equal sizes.

    Raises:
        InvalidModelError: the sizes do not fit together.
    """
    proto = ModelProto()
    proto.CopyFrom(model)
    del proto.graph.value_info[:]
    if input_shapes is None:
        for info in proto.graph.input:
            for dim in info.type.tensor_type.shape.dim:
                if not _is_fixed(dim) and not symbol(dim):
                    dim.Clear()
    else:
        for info in proto.graph.input:
            if info.type.HasField("tensor_type") and info.name in input_shapes:
                info.type.tensor_type.shape.CopyFrom(
                    onnx.helper.make_tensor_value_info("", 1, input_shapes[info.name]).type.tensor_type.shape
                )
    for info in proto.graph.output:  # exporters are wrong about these now and then, and runtimes do not mind
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=input_shapes is not None, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        text = " ".join(str(error).split())
        complaints = text.split("(op_type:")[1:]
        # That of a node with bodies only announces those of the nodes in them.
        own = [complaint for complaint in complaints if not complaint.rstrip().endswith("Inference error(s):")]
        if not own or not all(_UNTYPED in complaint for complaint in own):
            raise InvalidModelError(f"{name}: shapes do not fit: {text[:300]}", _SIZES_HINT) from error
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    shapes: dict[str, SymbolicShape] = {}
    types: dict[str, int] = {}
    for info in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]:
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            shapes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims)
            if any(d.dim_value < 0 for d in dims):
                raise InvalidModelError(f"{name}: '{info.name}' would have the shape {shapes[info.name]}", _SIZES_HINT)
        types[info.name] = info.type.tensor_type.elem_type
    return shapes, types


# Element type, shape, and the values where they are few and known, of a tensor that a node reads.
_Given = tuple[int, SymbolicShape, bytes | None]


def infer_node(
    node: gs.Node, shapes: Mapping[str, SymbolicShape], kinds: Mapping[str, int], opset: int
) -> dict[str, SymbolicShape]:
    """The shapes of what one node makes of tensors of given shapes, by onnx's inference; of none where it fails.

    It is not asked of nodes with bodies, which read what is around them.
    """
    if opaque(node):
        return {}
    given: list[_Given | None] = []
    for tensor in node.inputs:
        kind, shape, values = kinds.get(tensor.name, 0), shapes.get(tensor.name), None
        if isinstance(tensor, gs.Constant):
            kind, shape = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tuple(map(int, tensor.shape))
            few = prod(shape) <= SHAPE_VALUES and not tensor.dtype.hasobject
            values = np.asarray(tensor.values).tobytes() if few else None
        if tensor.name and (not kind or shape is None):
            return {}
        given.append((kind, shape, values) if tensor.name and shape is not None else None)
    made = _made(node.op, attribute_bytes(node), tuple(given), tuple(bool(t.name) for t in node.outputs), opset)
    return {node.outputs[k].name: shape for k, shape in made.items()}


def attribute_bytes(node: gs.Node) -> tuple[bytes, ...]:
    """The attributes of a node as protobufs, to know the same again."""
    return tuple(a.SerializeToString(deterministic=True) for a in export_attributes(node))


@lru_cache(4096)
def _made(
    op: str, attributes: tuple[bytes, ...], given: tuple[_Given | None, ...], outputs: tuple[bool, ...], opset: int
) -> dict[int, SymbolicShape]:
    """The shapes of the outputs, by number. Layers ask the same again and again."""
    types = {f"x{k}": onnx.helper.make_tensor_type_proto(g[0], g[1]) for k, g in enumerate(given) if g}
    values = {
        f"x{k}": onnx.TensorProto(name=f"x{k}", data_type=g[0], dims=list(g[1]), raw_data=g[2])  # type: ignore[arg-type]
        for k, g in enumerate(given)
        if g and g[2] is not None
    }
    names = [f"x{k}" if g else "" for k, g in enumerate(given)]
    node = onnx.helper.make_node(op, names, [str(k) if asked else "" for k, asked in enumerate(outputs)])
    node.attribute.extend(map(onnx.AttributeProto.FromString, attributes))
    try:
        schema = onnx.defs.get_schema(op, opset, "")
        imports = [onnx.helper.make_opsetid("", opset)]
        made = onnx.shape_inference.infer_node_outputs(schema, node, types, values, opset_imports=imports)
    except Exception:  # each kind of failure has a class of its own
        return {}
    return {
        int(name): tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)
        for name, kind in ((name, type_proto.tensor_type) for name, type_proto in made.items())
        if kind.HasField("shape")
    }


class Meter:
    """Shapes of tensors that inference cannot tell, seen by running a model on zeros in onnxruntime.

    What is opened for one choice of sizes serves the next. Of a tensor whose type is known no more than its shape is
    handed out, so that the values of all need not be held at the same time.

    Args:
        model: makes the protobuf, and the weights that it refers to.
        kinds: ONNX's numbers for the element types of tensors, where known.

    Attributes:
        dtypes: element types of what was seen so far.
    """

    def __init__(
        self, model: Callable[[], tuple[ModelProto, Mapping[str, np.ndarray]]], kinds: Mapping[str, int]
    ) -> None:
        self._model = model
        self._kinds = kinds
        self.dtypes: dict[str, np.dtype] = {}
        self._types: dict[str, int] = {}
        self._names: list[str] = []
        self._session: ort.InferenceSession | None = None

    def __call__(self, names: list[str], input_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Shape]:
        """The shapes of tensors at concrete sizes of all inputs; a size of 0 depends on the data and counts as unknown.

        What cannot be run, such as a custom operator or a model too large for a protobuf, has no shapes.
        """
        try:
            if self._session is None or not set(names) <= set(self._names):
                self._open(names)
            zeros = {
                name: np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(self._types[name]))
                for name, shape in input_shapes.items()
            }
            assert self._session is not None
            found = self._session.run([_SHAPE_OF * bool(self._kinds.get(name)) + name for name in names], zeros)
        except Exception:
            return {}
        arrays = {name: value for name, value in zip(names, found, strict=True) if isinstance(value, np.ndarray)}
        whole = {name: value for name, value in arrays.items() if not self._kinds.get(name)}
        self.dtypes |= {name: value.dtype for name, value in whole.items()}
        sizes = {name: whole[name].shape if name in whole else value.tolist() for name, value in arrays.items()}
        return {name: tuple(size or None for size in shape) for name, shape in sizes.items()}

    def close(self) -> None:
        """Let go of what was opened; it is opened again where more is asked."""
        self._session = None

    def _open(self, names: list[str]) -> None:
        proto, values = self._model()
        self._types = {info.name: info.type.tensor_type.elem_type for info in proto.graph.input}
        declared = {info.name for info in proto.graph.output}
        measured = [name for name in names if self._kinds.get(name)]
        proto.graph.node.extend(onnx.helper.make_node("Shape", [name], [_SHAPE_OF + name]) for name in measured)
        wanted = [*(name for name in names if name not in measured), *(_SHAPE_OF + name for name in measured)]
        proto.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name not in declared)
        self._session = session(proto.SerializeToString(), values=values, keep=False, shapes_first=True)
        self._names = names
