"""Every tiny net of the operator table, and random chains of them: what one makes, the next one reads.

A chain frees what a tiny net alone holds: the axes of its input and output are no longer those of an interface, so that
every axis of every operator is put to the question whether it may be cut.
"""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

from graphprune.model import load
from tests.law import Case, draw
from tests.random_nets import Choose
from tests.rules import (
    test_attention,
    test_axiswise,
    test_control,
    test_convolution,
    test_elementwise,
    test_fused,
    test_indexing,
    test_linear,
    test_movement,
    test_normalization,
    test_quantized,
    test_recurrent,
    test_reduction,
    test_routing,
    test_shaping,
    test_spatial,
)

DOMAINS = [
    test_attention,
    test_axiswise,
    test_control,
    test_convolution,
    test_elementwise,
    test_fused,
    test_indexing,
    test_linear,
    test_movement,
    test_normalization,
    test_quantized,
    test_recurrent,
    test_reduction,
    test_routing,
    test_shaping,
    test_spatial,
]
CASES: list[Case] = [case for module in DOMAINS for case in module.CASES]


# These make much of a rounding: they jump, have poles, or divide by what may be zero. Only the first net of a chain,
# which reads the very same numbers on both sides of the law, may have one.
UNSTEADY = frozenset(
    [
        *("And", "ArgMax", "ArgMin", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("Ceil", "Det", "Equal", "Floor", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less"),
        *("LessOrEqual", "LpNormalization", "MeanVarianceNormalization", "Mod", "Not", "OneHot", "Or", "Round"),
        *("Shrink", "Sign", "Tan", "ThresholdedRelu", "TopK", "Xor"),
    ]
)


@cache
def links() -> list[list[ModelProto]]:
    """The tiny nets that read one tensor of known shape and make tensors of known shapes, by opset."""
    found: dict[int, list[ModelProto]] = {}
    for case in CASES:
        model = case.model if all(map(_shape, case.model.graph.output)) else _measured(case.model)
        if len(model.graph.input) == 1 and all(map(_shape, [*model.graph.input, *model.graph.output])):
            found.setdefault(model.opset_import[0].version, []).append(model)
    return [models for models in found.values() if any(map(_steady, models))]


def _measured(model: ModelProto) -> ModelProto:
    """The model with sizes of its outputs, as onnxruntime makes them where onnx does not know an operator."""
    result = ModelProto()
    result.CopyFrom(model)
    shapes = load(model).shapes
    for info in result.graph.output:
        kind = info.type.tensor_type.elem_type
        info.CopyFrom(helper.make_tensor_value_info(info.name, kind, shapes.get(info.name, [None])))
    return result


def _steady(model: ModelProto) -> bool:
    return UNSTEADY.isdisjoint(node.op_type for node in model.graph.node)


def _shape(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of a floating-point tensor; empty where it is not all known."""
    tensor = info.type.tensor_type
    sizes = tuple(dim.dim_value for dim in tensor.shape.dim)
    return sizes if tensor.elem_type == TensorProto.FLOAT and all(sizes) else ()


def prefixed(model: ModelProto, prefix: str) -> ModelProto:
    """The model with every name behind a prefix; onnx forgets the constants that bodies capture."""
    result = compose.add_prefix(model, prefix)
    constants = {tensor.name for tensor in model.graph.initializer}
    waiting = [a.g for node in result.graph.node for a in node.attribute if a.HasField("g")]
    for body in waiting:  # grows: bodies, and those in them
        for node in body.node:
            node.input[:] = [prefix + name if name in constants else name for name in node.input]
            waiting.extend(a.g for a in node.attribute if a.HasField("g"))
    return result


def random_chain(choose: Choose, length: int = 4) -> ModelProto:
    """Up to ``length`` tiny nets of one opset, each reading what one or two before it made."""
    rng = np.random.default_rng(choose(1000))
    models = [model for model in links() for _ in model]  # an opset is drawn as often as it has nets
    alike = models[choose(len(models))]
    graph = onnx.GraphProto(name="chain")
    made: list[onnx.ValueInfoProto] = []
    read: set[str] = set()

    def weight(values: np.ndarray) -> str:
        name = f"link{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def node(op: str, *inputs: str) -> str:
        name = f"joint{len(graph.node)}"
        graph.node.append(helper.make_node(op, inputs, [name], name=name))
        return name

    def reshaped(info: onnx.ValueInfoProto, shape: tuple[int, ...]) -> str:
        """Any tensor to one of another shape: flattened, weighed and folded again, or just as it is."""
        read.add(info.name)
        if _shape(info) == shape and choose(2):
            return info.name
        flat = node("Reshape", info.name, weight(np.array([1, prod(_shape(info))])))
        size = prod(shape)
        zeros = weight(np.zeros(size, np.float32))
        dense = node("Gemm", flat, weight(draw(rng, (size, prod(_shape(info)))).T.copy()), zeros)
        return node("Reshape", node("Tanh", dense), weight(np.array(shape)))

    for k in range(1 + choose(length)):
        possible = [model for model in alike if not made or _steady(model)]
        link = prefixed(possible[choose(len(possible))], f"n{k}_").graph
        [entry] = link.input
        if made:
            source = reshaped(made[choose(len(made))], _shape(entry))
            if choose(3) == 0:
                source = node("Add", source, reshaped(made[choose(len(made))], _shape(entry)))
            graph.node.append(helper.make_node("Identity", [source], [entry.name]))
        else:
            graph.input.append(entry)
        graph.node.extend(link.node)
        graph.initializer.extend(link.initializer)
        made.extend(link.output)
    graph.output.extend(info for info in made if info.name not in read)
    imports = [helper.make_opsetid("", alike[0].opset_import[0].version), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=alike[0].ir_version)
