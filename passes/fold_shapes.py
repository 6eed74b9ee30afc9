"""Evaluate shape arithmetic before anything is cut, so that it pins nothing it need not pin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from graphprune.model import SHAPE_VALUES, Model, SymbolicShape, is_standard
from graphprune.state import State

# Elementwise: an element is known where the elements it is made of are.
_ELEMENTWISE = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Div",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Sqrt",
        "Sub",
        "Where",
    ]
)
# Movement of the first input (of all inputs for Concat): an element is known where the one it came from is.
_MOVEMENT = frozenset(["Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"])
# Anything else listed needs all its inputs.
_WHOLE = frozenset(["ConstantOfShape", "Expand", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Tile"])


@dataclass(frozen=True)
class _Partial:
    """A small tensor of which some elements are known: values and bool mask of one shape."""

    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class FoldShapes:
    """Partial evaluation of ``Shape`` and what is computed from it, with symbolic dimensions left symbolic.

    Tensors that come out fully known become constants; the target of a Reshape is spelled out with 0 and -1 where that
    says the same. What reads a shape element that stays symbolic is left as it is.
    """

    def __call__(self, state: State) -> State:
        """A state whose model computes the same with fewer nodes, or the same state."""
        model, changed = state.model, False
        while (folded := _fold(model)) is not None:
            model, changed = folded, True
        return replace(state, model=model) if changed else state


def _fold(model: Model) -> Model | None:
    result = model.copy()
    shapes = result.symbolic_shapes
    partial: dict[str, _Partial] = {}
    changed = False
    outputs = {t.name for t in result.graph.outputs}
    for node in result.graph.nodes:
        if not is_standard(node):
            continue
        if node.op == "Reshape" and isinstance(node.inputs[1], gs.Variable):
            changed |= _spell_out(node, shapes)
        found = _evaluate(node, partial, shapes, model)
        if found is None:
            continue
        output = node.outputs[0]
        partial[output.name] = found
        if found.known.all() and output.name not in outputs:
            node.outputs.clear()
            output.to_constant(found.values)
            changed = True
    if not changed:
        return None
    return result.with_nodes(result.graph.nodes)


def _evaluate(
    node: gs.Node, partial: Mapping[str, _Partial], shapes: Mapping[str, SymbolicShape], model: Model
) -> _Partial | None:
    if node.op == "Shape":
        shape = shapes.get(node.inputs[0].name)
        if shape is None:
            return None
        attrs: Mapping[str, Any] = node.attrs
        sizes = shape[attrs.get("start", 0) : attrs.get("end", len(shape))]
        known = np.array([isinstance(size, int) for size in sizes], bool)
        return _Partial(np.array([s if isinstance(s, int) else 1 for s in sizes], np.int64), known)
    if node.op not in _ELEMENTWISE | _MOVEMENT | _WHOLE or len(node.outputs) != 1:
        return None
    operands: list[_Partial | None] = []
    for tensor in node.inputs:
        if not tensor.name:
            operands.append(None)
        elif tensor.name in partial:
            operands.append(partial[tensor.name])
        elif isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape)) <= SHAPE_VALUES:
            values = np.asarray(tensor.values)
            operands.append(_Partial(values, np.ones(values.shape, bool)))
        else:
            return None
    if not any(t.name in partial for t in node.inputs):
        return None  # constants alone are fold_constants' work
    return _propagate(node, operands, model.opset)


def _propagate(node: gs.Node, operands: Sequence[_Partial | None], opset: int) -> _Partial | None:
    """The result of an operator of which some elements of some operands are known."""
    values = _run(node, operands, opset)
    if values is None or values.size > SHAPE_VALUES:
        return None
    if node.op in _MOVEMENT:  # move the masks of the moved operands the same way
        moved = len(operands) if node.op == "Concat" else 1
        if not all(o.known.all() for o in operands[moved:] if o is not None):
            return None
        masks = [_Partial(o.known.astype(np.int64), o.known) if o and k < moved else o for k, o in enumerate(operands)]
        mask = _run(node, masks, opset)
        return None if mask is None else _Partial(values, mask.astype(bool))
    known = np.ones(values.shape, bool)
    for operand in operands:
        if operand is not None and node.op in _ELEMENTWISE:
            known = known & operand.known
        elif operand is not None and not operand.known.all():
            return None
    return _Partial(values, known)


def _run(node: gs.Node, operands: Sequence[_Partial | None], opset: int) -> np.ndarray | None:
    """The operator on small tensors, by onnx's reference implementation; ``None`` where it has no meaning."""
    names = [f"x{k}" if o is not None else "" for k, o in enumerate(operands)]
    proto = onnx.helper.make_node(node.op, names, ["y"])
    proto.attribute.extend(OnnxExporter.export_attributes(node.attrs))
    present = [(n, o) for n, o in zip(names, operands, strict=True) if o is not None]
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(o.values.dtype), o.values.shape)
        for n, o in present
    ]
    graph = onnx.helper.make_graph([proto], "fold", inputs, [onnx.ValueInfoProto(name="y")])
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            return np.asarray(ReferenceEvaluator(single).run(None, {n: o.values for n, o in present})[0])
    except Exception:  # the placeholder of an unknown element can be illegal, e.g. as a divisor or a Range step
        return None


def _spell_out(node: gs.Node, shapes: Mapping[str, SymbolicShape]) -> bool:
    """Give a Reshape a constant target, if 0 (copy) and one -1 (the rest) can express its symbolic axes."""
    source, target = shapes.get(node.inputs[0].name), shapes.get(node.outputs[0].name)
    if source is None or target is None or node.attrs.get("allowzero", 0) or 0 in target:
        return False
    spelled: list[int] = []
    for axis, size in enumerate(target):
        copied = isinstance(size, str) and axis < len(source) and source[axis] == size
        spelled.append(size if isinstance(size, int) else 0 if copied else -1)
    if spelled.count(-1) > 1:
        return False
    node.inputs[1] = gs.Constant(f"{node.outputs[0].name}:shape", np.array(spelled, np.int64))
    return True
