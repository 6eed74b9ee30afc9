"""ONNX to Relax: static shapes, constants folded, one Relax variable per ONNX node.

TVM's importer does the translation. Around it this module binds the shapes, evaluates what is constant (with onnx's
reference implementation, so that shapes and paddings computed in the graph are known), keeps the weights out of the
protobuf copies, and turns every failure into one line that names the node.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import tvm
from onnx import numpy_helper, reference, shape_inference
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from graphprune.compiler import recurrent
from graphprune.compiler.targets import Target
from graphprune.compiler.translations import TRANSLATIONS, WINDOWED, explicit_padding
from graphprune.errors import CompileError

DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
_SMALL = 4096  # constants up to this many elements are shown to shape inference


def import_onnx(
    proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], target: Target
) -> tuple[tvm.IRModule, dict[str, str]]:
    """The model as a Relax module whose weights are constants, and the ONNX node behind each variable name.

    Args:
        proto: a valid ONNX model.
        shapes: the shape of every input that has a symbolic or unknown dimension.
        target: what kernels are made for that Relax has no operator for.

    Raises:
        CompileError: an input without a static shape, or a node the importer does not know.
    """
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    graph = onnx.GraphProto(name=proto.graph.name, node=proto.graph.node, output=proto.graph.output)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    graph.input.extend(_bind(value, shapes) for value in proto.graph.input if value.name not in constants)
    unknown = sorted(set(shapes) - {value.name for value in graph.input})
    if unknown:
        raise CompileError(
            f"the model has no input {unknown[0]!r}", f"inputs: {', '.join(value.name for value in graph.input)}"
        )
    _fold(graph, constants, proto.opset_import, proto.ir_version)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    importer = _Importer(constants, target)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        module = importer.from_onnx(graph, opset)
    result = module["main"].body.body
    if isinstance(result, relax.Var):  # a single output gets a new variable
        name = graph.output[0].name
        importer.node_of[str(result.name)] = next((n.name for n in graph.node if name in n.output), name)
    return module, importer.node_of


def _bind(value: onnx.ValueInfoProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ValueInfoProto:
    """`value` with a static shape."""
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name if tensor.elem_type else "unknown"
    if dtype not in DTYPES:
        raise CompileError(
            f"input {value.name!r} has dtype {dtype}, which cannot be compiled", f"one of {', '.join(DTYPES)}"
        )
    declared: list[int | str] | None = None
    if tensor.HasField("shape"):
        declared = [d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in tensor.shape.dim]
    text = "?" if declared is None else " × ".join(map(str, declared))
    given = shapes.get(value.name)
    if given is None:
        if declared is None or not all(isinstance(d, int) for d in declared):
            raise CompileError(
                f"input {value.name!r} has no fixed shape ({text})",
                f"give one, for example --shape {value.name}=1,3,224,224",
            )
        given = tuple(d for d in declared if isinstance(d, int))
    if declared is not None and (
        len(declared) != len(given) or any(isinstance(d, int) and d != g for d, g in zip(declared, given, strict=True))
    ):
        raise CompileError(f"input {value.name!r} is {text} and cannot take the shape {given}")
    return onnx.helper.make_tensor_value_info(value.name, tensor.elem_type, given)


def _fold(graph: onnx.GraphProto, constants: dict[str, np.ndarray], opsets: Any, ir_version: int) -> None:
    """Evaluate every node whose inputs are constant, and every Shape of a static tensor, in place."""
    shapes = _static_shapes(graph, constants, opsets, ir_version)
    kept = []
    for node in graph.node:
        values = _evaluate(node, constants, shapes, opsets, ir_version)
        if values is None:
            kept.append(node)
        else:
            constants.update(zip(node.output, values, strict=False))
    del graph.node[:]
    graph.node.extend(kept)


def _static_shapes(
    graph: onnx.GraphProto, constants: dict[str, np.ndarray], opsets: Any, ir_version: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that ONNX shape inference finds static; large weights are seen as typed inputs only."""
    light = onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output)
    for name, array in constants.items():
        if array.size <= _SMALL:
            light.initializer.append(numpy_helper.from_array(array, name))
        else:
            elem = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            light.input.append(onnx.helper.make_tensor_value_info(name, elem, array.shape))
    model = onnx.helper.make_model(light, opset_imports=opsets, ir_version=ir_version)
    with contextlib.suppress(shape_inference.InferenceError):
        model = shape_inference.infer_shapes(model, data_prop=True)
    static = {name: array.shape for name, array in constants.items()}
    for value in [*model.graph.input, *model.graph.value_info]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            static[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return static


def _evaluate(
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    opsets: Any,
    ir_version: int,
) -> list[np.ndarray] | None:
    """What `node` computes if that is known now, else None."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        start, end = (next((a.i for a in node.attribute if a.name == key), None) for key in ("start", "end"))
        return [np.array(shapes[node.input[0]][start:end], np.int64)]
    if node.op_type in _RANDOM or any(name and name not in constants for name in node.input):
        return None
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return None
    feeds = {name: constants[name] for name in node.input if name}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "constant", inputs, outputs), opset_imports=opsets, ir_version=ir_version
    )
    try:
        found = reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the reference lacks the operator or rejects it: the importer decides
        return None
    values = dict(zip((o.name for o in outputs), found, strict=True))
    arrays = [values.get(name) for name in node.output]
    return [np.asarray(a) for a in arrays] if all(isinstance(a, np.ndarray | np.generic) for a in arrays) else None


class _Importer(onnx_frontend.ONNXGraphImporter):
    """TVM's importer; names each node's value so that it can be found again, and reports failures by node."""

    def __init__(self, constants: dict[str, np.ndarray], target: Target) -> None:
        super().__init__({}, "float32", keep_params_in_input=False, sanitize=True)
        self._constants, self._target = constants, target
        self.node_of: dict[str, str] = {}

    def _parse_graph_initializers(self, graph: onnx.GraphProto) -> None:
        for name, array in self._constants.items():
            if array.dtype.name in DTYPES:
                self._nodes[name] = relax.const(np.ascontiguousarray(array).reshape(array.shape), array.dtype.name)

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = {*onnx_frontend._get_convert_map(), *recurrent.OPERATORS}
        for node in graph.node:
            if node.op_type not in known:
                raise CompileError(
                    f"node {node.name or node.output[0]!r}: TVM's importer does not know the operator {node.op_type}",
                    "leave compilation out, or express the operator with standard ones",
                )

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            if not node.name:  # a node's name is optional in ONNX; errors and the manifest need one
                node.name = next(name for name in node.output if name)
        super()._construct_nodes(graph)

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        node = attrs["tvm_custom"]["name"]
        try:
            if op_name in WINDOWED:
                explicit_padding(inputs, attrs)
            if op_name in recurrent.OPERATORS:
                made = recurrent.recurrent(op_name, self.bb, inputs, attrs, self._target)
                if made is None:
                    raise NotImplementedError("peepholes, lengths, computed weights, other activations or a device")
                self.node_of.update({str(variable.name): node for variable in made[1]})
                return made[0]
            ours = TRANSLATIONS.get(op_name)
            value = ours(inputs, attrs) if ours else None
            if value is None:
                value = super()._convert_operator(op_name, inputs, attrs, opset)
            else:
                value = self.bb.normalize(value)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CompileError(
                f"node {node!r}: TVM's importer cannot translate this {op_name}: {reason[:200]}",
                "leave compilation out, or express the operator with standard ones",
            ) from error
        if isinstance(value, relax.Call) and isinstance(value.ty, relax.TensorType):
            value = self.bb.emit(value, name_hint="node")
            self.node_of[str(value.name)] = node
        return value
