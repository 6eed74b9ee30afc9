"""A model: one ONNX graph in onnx-graphsurgeon form, with everything needed to write it back unchanged.

Loading normalises what would otherwise need a second code path everywhere: model-local functions are inlined, and
weights held in ``Constant`` nodes or in bodies become initializers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import SparseValues

from graphprune.errors import GraphpruneError, InvalidModelError
from graphprune.model.bodies import Within, measure, separate, within
from graphprune.model.onnxfile import LARGEST_INLINE, check, read
from graphprune.model.shapes import (
    SHAPE_VALUES,
    Meter,
    Shape,
    SymbolicShape,
    bind,
    infer,
    sum_of,
    symbol,
    symbolic_axes,
)
from graphprune.model.surgeon import copy_graph, export_node, export_tensor, hollow_tensor, import_graph
from graphprune.model.weights import DataFile, is_streamed, size
from graphprune.output import new_files


@dataclass(frozen=True, eq=False)
class Model:
    """An ONNX model and the concrete sizes its symbolic dimensions take for analysis.

    Attributes:
        graph: the nodes and tensors; treat as immutable, change a ``copy``.
        header: the original protobuf without nodes and weights: interface, opset imports, metadata.
        input_shapes: the concrete shape of each graph input during analysis, measuring and verification.
        external: whether the weights were in a file of their own, and shall be again.
        name: the file's stem, for messages and reports.
        notes: documentation and metadata of nodes, by the name of their first output.
    """

    graph: gs.Graph
    header: ModelProto
    input_shapes: Mapping[str, tuple[int, ...]]
    external: bool = False
    name: str = "model"
    notes: Mapping[str, NodeProto] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """Version of the default operator domain."""
        return next((o.version for o in self.header.opset_import if o.domain in ("", "ai.onnx")), 1)

    @cached_property
    def constants(self) -> dict[str, gs.Constant]:
        """Every initializer that a node of the main graph reads, by name, in graph order."""
        return {
            tensor.name: tensor
            for node in self.graph.nodes
            for tensor in node.inputs
            if isinstance(tensor, gs.Constant) and tensor.name
        }

    @property
    def streamed(self) -> bool:
        """Whether the weights are too large to hold in memory, or in one protobuf, all together."""
        constants = self.constants.values()
        return any(map(is_streamed, constants)) or sum(map(size, constants)) > LARGEST_INLINE

    @property
    def chosen_shapes(self) -> dict[str, tuple[int, ...]]:
        """The concrete shapes of the inputs whose sizes the file leaves open."""
        return {name: self.input_shapes[name] for name, info in self.inputs.items() if symbolic_axes(info)}

    @cached_property
    def bodies(self) -> Within:
        """What lies inside the nodes that have a body; not to be changed."""
        return within(self.graph.nodes, self.header, self.constants)

    @cached_property
    def nodes(self) -> list[gs.Node]:
        """All nodes, those of bodies right before the node whose body it is."""

        def inward(nodes: Iterable[gs.Node]) -> Iterator[gs.Node]:
            for node in nodes:
                for graph in self.bodies.get(id(node), ()):
                    yield from inward(graph.nodes)
                yield node

        return list(inward(self.graph.nodes))

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Concrete shape of every tensor, in bodies too, whose rank is known; ``None`` for an unknown size."""
        return self._shapes_at(self.input_shapes)

    @cached_property
    def symbolic_shapes(self) -> dict[str, SymbolicShape]:
        """Like ``shapes``, with the inputs' dimensions left symbolic: equal names are equal sizes."""
        return self._inferred[0]

    @property
    def kinds(self) -> dict[str, int]:
        """ONNX's number for the element type of every tensor of the main graph that is no constant."""
        return self._inferred[1]

    @cached_property
    def dtypes(self) -> dict[str, np.dtype]:
        """Element type of every tensor that is no constant, in bodies too, where numpy has it."""
        known = {name: kind for name, kind in (self._inferred[1] | self._inside(self.shapes)[1]).items() if kind}
        told = {name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) for name, kind in known.items()}
        return self._meter.dtypes | told

    @cached_property
    def _inferred(self) -> tuple[dict[str, SymbolicShape], dict[str, int]]:
        return self._infer(None)

    @cached_property
    def varying(self) -> set[tuple[str, int]]:
        """The (tensor, axis) pairs whose size changes with a symbolic dimension of an input.

        Found by inferring again with one symbolic dimension doubled at a time: a model that does not admit the doubled
        size is one whose dimension cannot vary.
        """
        symbols: dict[str, list[tuple[str, int]]] = {}
        for name, info in self.inputs.items():
            for axis in symbolic_axes(info):
                open_size = symbol(info.type.tensor_type.shape.dim[axis]) or f"{name}[{axis}]"
                symbols.setdefault(open_size, []).append((name, axis))
        sums = {name: parts for name in symbols if set(parts := sum_of(name)) & symbols.keys()}
        found: set[tuple[str, int]] = set()
        for open_size, places in symbols.items():
            if open_size in sums:
                continue
            more = {(name, axis): self.input_shapes[name][axis] for name, axis in places}
            for total, parts in sums.items():  # these grow with what they are made of
                more |= dict.fromkeys(symbols[total], parts.count(open_size) * more[places[0]])
            doubled = {
                name: tuple(size + more.get((name, axis), 0) for axis, size in enumerate(shape))
                for name, shape in self.input_shapes.items()
            }
            try:
                other = self._shapes_at(doubled)
            except InvalidModelError:
                continue
            found |= {
                (name, axis)
                for name, shape in self.shapes.items()
                for axis, size in enumerate(shape)
                if len(other.get(name, ())) == len(shape) and other[name][axis] != size
            }
        self._meter.close()
        return found

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self.lean, self.kinds)

    def _shapes_at(self, input_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Shape]:
        """Shapes by inference, and by execution where shape arithmetic is beyond it."""
        inferred = self._infer(input_shapes)[0]
        shapes: dict[str, Shape] = {
            name: tuple(n if isinstance(n, int) else None for n in shape) for name, shape in inferred.items()
        }
        made = (t for n in self.graph.nodes for t in n.outputs if t.name and self.reads(t))
        unknown = [t.name for t in made if None in shapes.get(t.name, (None,))]
        if unknown and not self.streamed:
            shapes |= self._meter(unknown, input_shapes)
        return shapes | self._inside(shapes)[0]

    def _inside(self, shapes: Mapping[str, Shape]) -> tuple[dict[str, Shape], dict[str, int]]:
        """Shapes and element types of the tensors in bodies, where those around have ``shapes``."""
        if not self.bodies:
            return {}, {}
        return measure(self.graph.nodes, self.bodies, self.header, self.constants, shapes, self._inferred[1])

    def _infer(
        self, input_shapes: Mapping[str, tuple[int, ...]] | None
    ) -> tuple[dict[str, SymbolicShape], dict[str, int]]:
        constants: dict[str, SymbolicShape] = {n: tuple(int(k) for k in c.shape) for n, c in self.constants.items()}
        shapes, types = infer(self._outline, self.name, input_shapes)
        return constants | shapes, types

    @cached_property
    def _outline(self) -> ModelProto:
        """The protobuf without weights, made once for every inference."""
        return self.proto(weights=False)

    @property
    def inputs(self) -> dict[str, ValueInfoProto]:
        """The interface's inputs, as declared in the file."""
        return {info.name: info for info in self.header.graph.input}

    @property
    def outputs(self) -> dict[str, ValueInfoProto]:
        """The interface's outputs, as declared in the file."""
        return {info.name: info for info in self.header.graph.output}

    def reads(self, tensor: gs.Tensor) -> bool:
        """Whether anything reads a tensor: a node, or whom it is handed to."""
        return bool(tensor.outputs) or self.hands_out(tensor)

    def hands_out(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is an output, of the model or of a body."""
        return tensor.name in self.outputs or tensor.name in self._handed_out

    @cached_property
    def _handed_out(self) -> set[str]:
        return {tensor.name for graphs in self.bodies.values() for graph in graphs for tensor in graph.outputs}

    def copy(self) -> Model:
        """A copy whose nodes may be changed; weights are shared until they are replaced."""
        return replace(self, graph=copy_graph(self.graph))

    def with_nodes(self, nodes: Iterable[gs.Node]) -> Model:
        """The same header and sizes around other nodes, less those no output depends on; nothing inferred is kept.

        Takes over the graph of this model: call it on a ``copy``.
        """
        needed = {t.name for t in self.graph.outputs}
        kept = []
        for node in reversed(list(nodes)):
            if any(t.name in needed for t in node.outputs):
                needed |= {t.name for t in node.inputs}
                kept.append(node)
        self.graph.nodes[:] = kept[::-1]
        return replace(self)

    def lean(self) -> tuple[ModelProto, dict[str, np.ndarray]]:
        """The protobuf with references in place of its large weights, and these, not copied: what a session takes."""
        values: dict[str, np.ndarray] = {}
        return self.proto(data=values), values

    def proto(self, weights: bool = True, data: DataFile | dict[str, np.ndarray] | None = None) -> ModelProto:
        """The ONNX protobuf; without ``weights`` large tensors keep only their shape and type.

        Args:
            weights: whether values are asked for.
            data: a file to put them in, or a place in memory, unless they are few.
        """
        model = ModelProto()
        model.CopyFrom(self.header)
        del model.graph.value_info[:]  # of the graph as it was
        for node in self.graph.nodes:
            exported = model.graph.node.add()
            exported.CopyFrom(export_node(node))
            exported.MergeFrom(self.notes.get(node.outputs[0].name if node.outputs else "", NodeProto()))
        for tensor in self.constants.values():
            sparse = isinstance(tensor._values, SparseValues)
            if weights and sparse:
                model.graph.sparse_initializer.append(OnnxExporter.export_sparse_tensor_proto(tensor))
            elif weights or (not sparse and prod(tensor.shape) <= SHAPE_VALUES):
                model.graph.initializer.append(export_tensor(tensor, data))
            else:
                model.graph.initializer.append(hollow_tensor(tensor))
        # An output may be an initializer or an input that no node reads.
        present = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
        for tensor in self.graph.outputs:
            if isinstance(tensor, gs.Constant) and tensor.name not in present:
                model.graph.initializer.append(export_tensor(tensor, data))
        return model


def load(
    source: str | os.PathLike[str] | ModelProto,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    dim_params: Mapping[str, int] | None = None,
) -> Model:
    """Read, check and normalise an ONNX model.

    Args:
        source: a path or a protobuf; a protobuf is not changed.
        input_shapes: concrete shapes for inputs with symbolic dimensions.
        dim_params: concrete sizes of symbolic dimensions by name. What neither names is 1 on the first axis, 224 on the
            image axes of a rank-4 input and 64 elsewhere.

    Raises:
        InvalidModelError: the file is missing, unreadable, no valid ONNX, or newer than the installed packages know.
        UsageError: ``input_shapes`` or ``dim_params`` do not fit the model's inputs.
    """
    try:
        return _load(source, input_shapes, dim_params)
    except (GraphpruneError, MemoryError):
        raise
    except Exception as error:  # onnx, protobuf and graphsurgeon raise anything on what none of them expects
        name = "the model" if isinstance(source, ModelProto) else source
        raise InvalidModelError(
            f"{name} cannot be read: {type(error).__name__}: {error}",
            "check it with onnx.checker or export it again",
        ) from error


def _load(
    source: str | os.PathLike[str] | ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    dim_params: Mapping[str, int] | None,
) -> Model:
    if isinstance(source, ModelProto):
        proto, name, external, folder = ModelProto(), "model", False, Path()
        proto.CopyFrom(source)
        check(proto, name)
    else:
        path = Path(source)
        proto, external = read(path)
        name, folder = path.stem, path.parent.resolve()
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    separate(proto.graph)
    initializers = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    inputs = [info for info in proto.graph.input if info.name not in initializers]

    header = ModelProto()
    header.CopyFrom(_without_body(proto))
    header.graph.input.extend(inputs)
    header.ir_version = max(header.ir_version, 4)  # from 4 on, initializers need not be listed as inputs
    shapes = bind(inputs, dict(input_shapes or {}), dict(dim_params or {}))

    notes = {
        node.output[0]: NodeProto(doc_string=node.doc_string or None, metadata_props=node.metadata_props)
        for node in proto.graph.node
        if node.output and (node.doc_string or node.metadata_props)
    }
    return Model(import_graph(proto, folder), header, shapes, external, name, notes)


def save(model: Model, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model beside its destination, then move it into place.

    Args:
        model: what to write; inputs, outputs, opset and metadata are as they were loaded.
        path: the file; with external data the weights go to ``path`` + ``.data``.
        metadata: entries to add to ``metadata_props``.

    Raises:
        OutputError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    with new_files(path) as folder:
        with DataFile(folder / f"{path.name}.data") as data:
            proto = model.proto(data=data if model.external or model.streamed else None)
        _refresh_value_info(model, proto)
        for key, value in (metadata or {}).items():
            entry = next((e for e in proto.metadata_props if e.key == key), None) or proto.metadata_props.add(key=key)
            entry.value = value
        (folder / path.name).write_bytes(proto.SerializeToString(deterministic=True))
        check(proto, str(path), str(folder / path.name))


def _without_body(proto: ModelProto) -> ModelProto:
    """All of a model but its nodes, weights, inputs and inferred shapes, without copying the weights."""
    header = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name in ("graph", "functions"):
            continue
        target = getattr(header, descriptor.name)
        if hasattr(target, "extend"):
            target.extend(value)
        elif hasattr(target, "CopyFrom"):
            target.CopyFrom(value)
        else:
            setattr(header, descriptor.name, value)
    graph = proto.graph
    header.graph.name = graph.name
    if graph.doc_string:
        header.graph.doc_string = graph.doc_string
    header.graph.output.extend(graph.output)
    header.graph.metadata_props.extend(graph.metadata_props)
    header.graph.quantization_annotation.extend(graph.quantization_annotation)
    if graph.value_info:  # remembered only as a wish to have them: see _refresh_value_info
        header.graph.value_info.add().CopyFrom(graph.value_info[0])
    return header


def _refresh_value_info(model: Model, proto: ModelProto) -> None:
    """Replace the stale inferred shapes of the original by those of this graph, if the original carried any."""
    if model.header.graph.value_info:
        hollow = model.proto(weights=False)
        proto.graph.value_info.extend(onnx.shape_inference.infer_shapes(hollow, data_prop=True).graph.value_info)
