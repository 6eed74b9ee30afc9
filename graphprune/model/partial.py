"""Arithmetic on shapes where only some elements are known: a symbolic size is passed on as the one that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from graphprune.model.shapes import SHAPE_VALUES, SymbolicShape, attribute_bytes

# Elementwise: an element is known where the elements it is made of are.
# fmt: off
_ELEMENTWISE = frozenset([
    "Abs", "Add", "And", "Cast", "Ceil", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Sqrt", "Sub", "Where",
])
# fmt: on
# Movement of the first input (of all inputs for Concat): an element is known where the one it came from is.
_MOVEMENT = frozenset(["Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"])
# Anything else listed needs all its inputs.
_WHOLE = frozenset(["ConstantOfShape", "Expand", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Tile"])
_LISTED = _ELEMENTWISE | _MOVEMENT | _WHOLE

# Where an element comes from: known, unknown, or (above 0) the symbol of an input dimension.
KNOWN, UNKNOWN = 0, -1


@dataclass(frozen=True)
class Partial:
    """A small tensor of which some elements are known: values, and int64 origins of the same shape."""

    values: np.ndarray
    origin: np.ndarray

    @property
    def known(self) -> bool:
        """Whether all of it is."""
        return bool((self.origin == KNOWN).all())


Shapes = Mapping[str, SymbolicShape]
Known = Mapping[str, Partial]


def evaluate(
    node: gs.Node,
    partial: Known,
    shapes: Shapes,
    symbols: Mapping[str, int],
    opset: int,
) -> Partial | None:
    """What is known of the one result of a node; none of a node that does no arithmetic on shapes.

    Args:
        node: which.
        partial: what is known of other tensors, by name.
        shapes: of tensors.
        symbols: the number of every symbolic size.
        opset: of the model.
    """
    if node.op == "Shape":
        shape = shapes.get(node.inputs[0].name)
        if shape is None:
            return None
        attrs: Mapping[str, Any] = node.attrs
        return sizes_of(shape[attrs.get("start", 0) : attrs.get("end", len(shape))], symbols)
    if node.op not in _LISTED or len(node.outputs) != 1:
        return None
    operands: list[Partial | None] = []
    for tensor in node.inputs:
        if not tensor.name:
            operands.append(None)
        elif tensor.name in partial:
            operands.append(partial[tensor.name])
        elif isinstance(tensor, gs.Constant) and prod(tensor.shape) <= SHAPE_VALUES:
            values = np.asarray(tensor.values)
            operands.append(Partial(values, np.full(values.shape, KNOWN)))
        else:
            return None
    integers = all(o is None or o.values.dtype.kind in "iub" for o in operands)
    if not integers and not any(t.name in partial for t in node.inputs):
        return None  # floating-point constants alone may be weights: fold_constants' work
    return _propagate(node, operands, opset)


def sizes_of(shape: SymbolicShape, symbols: Mapping[str, int]) -> Partial:
    """A shape as the tensor of its sizes."""
    values = [size if isinstance(size, int) else 1 for size in shape]
    origin = [KNOWN if isinstance(s, int) else UNKNOWN if s is None else symbols[s] for s in shape]
    return Partial(np.array(values, np.int64), np.array(origin, np.int64))


def _propagate(node: gs.Node, operands: Sequence[Partial | None], opset: int) -> Partial | None:
    """The result of an operator of which some elements of some operands are known."""
    values = _run(node, operands, opset)
    if values is None or values.size > SHAPE_VALUES:
        return None
    if node.op in _MOVEMENT or (node.op == "Cast" and values.dtype.kind in "iu"):
        # Move the origins of the moved operands the same way.
        moved = len(operands) if node.op == "Concat" else 1
        if not all(o.known for o in operands[moved:] if o is not None):
            return None
        if all(o.known for o in operands[:moved] if o is not None):
            return Partial(values, np.full(values.shape, KNOWN))
        origins = [Partial(o.origin, o.origin) if o and k < moved else o for k, o in enumerate(operands)]
        origin = _run(node, origins, opset)
        return None if origin is None else Partial(values, origin)
    if (told := _told(node, operands, values)) is not None:
        return told
    origin = np.full(values.shape, KNOWN)
    for operand in operands:
        if operand is not None and node.op in _ELEMENTWISE:
            origin = np.where(operand.origin == KNOWN, origin, UNKNOWN)
        elif operand is not None and not operand.known:
            return None
    return Partial(values, origin)


def _told(node: gs.Node, operands: Sequence[Partial | None], values: np.ndarray) -> Partial | None:
    """What is known although an operand is not: no size is below 0, and a condition that is known chooses."""
    given = [o for o in operands if o is not None]
    if node.op == "Equal":
        a, b = given
        known = (a.origin == KNOWN) & (b.origin == KNOWN)
        known |= ((a.origin > 0) & (b.origin == KNOWN) & (b.values < 0)) if b.values.dtype.kind == "i" else False
        known |= ((b.origin > 0) & (a.origin == KNOWN) & (a.values < 0)) if a.values.dtype.kind == "i" else False
        return Partial(values, np.where(known, KNOWN, UNKNOWN))
    if node.op == "Where":
        condition, a, b = given
        chosen = np.where(condition.values, a.origin, b.origin)
        return Partial(values, np.where(condition.origin == KNOWN, chosen, UNKNOWN))
    return None


def _run(node: gs.Node, operands: Sequence[Partial | None], opset: int) -> np.ndarray | None:
    """The operator on small tensors, by onnx's reference implementation; ``None`` where it has no meaning."""
    present = [None if o is None else o.values for o in operands]
    if any(v is not None and v.dtype.hasobject for v in present):
        return None
    given = tuple(None if v is None else (v.dtype.str, v.shape, v.tobytes()) for v in present)
    return _computed(node.op, attribute_bytes(node), given, opset)


@lru_cache(4096)
def _computed(
    op: str, attributes: tuple[bytes, ...], given: tuple[tuple[str, tuple[int, ...], bytes] | None, ...], opset: int
) -> np.ndarray | None:
    """Layers ask the same again and again. The result is not to be written to."""
    values = {f"x{k}": np.frombuffer(v[2], v[0]).reshape(v[1]) for k, v in enumerate(given) if v is not None}
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in values.items()
    ]
    proto = onnx.helper.make_node(op, [f"x{k}" if v is not None else "" for k, v in enumerate(given)], ["y"])
    proto.attribute.extend(map(onnx.AttributeProto.FromString, attributes))
    graph = onnx.helper.make_graph([proto], "fold", inputs, [onnx.ValueInfoProto(name="y")])
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(single).run(None, values)
            return np.asarray(results[0])
    except Exception:  # the placeholder of an unknown element can be illegal, e.g. as a divisor or a Range step
        return None
