"""Evaluate shape arithmetic before anything is cut, so that it pins nothing it need not pin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from graphprune.model import SHAPE_VALUES, Model
from graphprune.model.shapes import SymbolicShape, infer_node, symbol
from graphprune.model.surgeon import is_standard
from graphprune.state import State

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


# Operators that take a list of sizes, and the input that holds it.
_SIZES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}

# Operators of which onnx's inference tells no size where it cannot tell all.
_LOSES_SHAPE = frozenset(["ConstantOfShape", "Expand", "Slice", "Tile"])

# Where an element comes from: known, unknown, or (above 0) the symbol of an input dimension.
_KNOWN, _UNKNOWN = 0, -1


@dataclass(frozen=True)
class _Partial:
    """A small tensor of which some elements are known: values, and int64 origins of the same shape."""

    values: np.ndarray
    origin: np.ndarray

    @property
    def known(self) -> bool:
        """Whether all of it is."""
        return bool((self.origin == _KNOWN).all())


Shapes = Mapping[str, SymbolicShape]
Known = Mapping[str, _Partial]


@dataclass(frozen=True)
class FoldShapes:
    """Partial evaluation of ``Shape`` and what is computed from it, with symbolic dimensions left symbolic.

    Tensors that come out fully known become constants; the target of a Reshape is spelled out with 0 and -1, and that
    of a Resize as scales, where that says the same. A size that stays symbolic is read from the input of the model that
    has it, so that no tensor in between is held by having been asked.
    """

    def __call__(self, state: State) -> State:
        """A state whose model computes the same with fewer nodes, or the same state."""
        model, changed = state.model, False
        while (folded := _fold(model)) is not None:
            model, changed = folded, True
        return replace(state, model=model) if changed else state


def _fold(model: Model) -> Model | None:
    result = model.copy()
    shapes = dict(result.symbolic_shapes)
    sizes = {size for shape in shapes.values() for size in shape if isinstance(size, str)}
    symbols = {name: k for k, name in enumerate(sorted(sizes), start=1)}
    declared = {symbol(dim) for info in model.inputs.values() for dim in info.type.tensor_type.shape.dim}
    names = {k: name for name, k in symbols.items() if name in declared}
    better: set[str] = set()  # tensors of which more is known than onnx's inference of the whole graph finds
    partial: dict[str, _Partial] = {}
    changed = False
    outputs = {t.name for t in result.graph.outputs}
    rooted: list[gs.Node] = []
    joins: list[tuple[gs.Node, list[gs.Node]]] = []
    for node in result.graph.nodes:
        if not is_standard(node):
            continue
        if node.op == "Reshape" and isinstance(node.inputs[1], gs.Variable):
            changed |= _spell_out(node, partial.get(node.inputs[1].name), shapes, symbols)
        if node.op == "Expand" and isinstance(node.inputs[1], gs.Variable):
            changed |= _spell_out_copies(node, partial.get(node.inputs[1].name), shapes, symbols)
        if (listed := _SIZES.get(node.op)) is not None and isinstance(node.inputs[listed], gs.Variable):
            joins += _join(node, listed, partial, outputs)
        if node.op == "Resize" and len(node.inputs) > 3 and isinstance(node.inputs[3], gs.Variable):
            changed |= _scale_instead(node, partial.get(node.inputs[3].name), shapes, symbols)
        if node.op in _LOSES_SHAPE or any(t.name in better for t in node.inputs):
            better.update(_learn(node, partial, shapes, names, model))
        found = _evaluate(node, partial, shapes, symbols, model.opset)
        if found is None:
            continue
        output = node.outputs[0]
        partial[output.name] = found
        if found.known and output.name not in outputs:
            node.outputs.clear()
            output.to_constant(found.values)
            changed = True
        elif found.origin.size == 1 and _asks_within(node, result) and output.name not in outputs:
            rooted += _from_input(node, found, result, shapes, symbols)
    if not changed and not rooted and not joins:
        return None
    joined = {id(node): added for node, added in joins}
    nodes = [new for node in result.graph.nodes for new in (*joined.get(id(node), ()), node)]
    return result.with_nodes([*rooted, *nodes])


def _learn(
    node: gs.Node, partial: Known, shapes: dict[str, SymbolicShape], names: Mapping[int, str], model: Model
) -> Iterator[str]:
    """Note in ``shapes`` what more is known of the shapes that a node makes; the names of those tensors."""

    def known(size: int | str | None) -> bool:  # others' names are made up, and say nothing
        return isinstance(size, int) or size in names.values()

    if all(all(map(known, shapes.get(t.name, (None,)))) for t in node.outputs):
        return
    if node.op in _LOSES_SHAPE:
        found = {node.outputs[0].name: _as_far_as_known(node, partial, shapes, names)}
    else:
        found = dict(infer_node(node, shapes, model.kinds, model.opset))
    for name, now in found.items():
        was = shapes.get(name, (None,) * len(now or ()))
        if now is not None and len(now) == len(was):
            shapes[name] = tuple(b if known(b) and not known(a) else a for a, b in zip(was, now, strict=True))
            if shapes[name] != was:
                yield name


def _as_far_as_known(node: gs.Node, partial: Known, shapes: Shapes, names: Mapping[int, str]) -> SymbolicShape | None:
    """The shape that an operator makes of which onnx's inference tells no size where it cannot tell all."""
    source = shapes.get(node.inputs[0].name)
    asked = partial.get(node.inputs[_SIZES[node.op]].name) if node.op in _SIZES else None
    if source is None or (asked is None and node.op != "Slice"):
        return None
    found: list[int | str | None] = []
    if asked is not None:
        pairs = zip(asked.values.reshape(-1).tolist(), asked.origin.reshape(-1).tolist(), strict=True)
        found = [size if origin == _KNOWN else names.get(origin) for size, origin in pairs]
    if node.op == "Slice":
        axes = node.inputs[3] if len(node.inputs) > 3 else None
        if not isinstance(axes, gs.Constant):
            return None
        cut = {int(axis) % len(source) for axis in np.asarray(axes.values).reshape(-1)}
        found = [None if axis in cut else size for axis, size in enumerate(source)]
    elif node.op == "Tile":
        found = [b if a == 1 else a if b == 1 else None for a, b in zip(source, found, strict=True)]
    elif node.op == "Expand":
        own = (*(1 for _ in found[len(source) :]), *source)
        found = [*(1 for _ in source[len(found) :]), *found]
        found = [a if b == 1 else b if a == 1 or isinstance(b, int) else None for a, b in zip(own, found, strict=True)]
    return tuple(found)


def _asks_within(node: gs.Node, model: Model) -> bool:
    """Whether a node takes an element of the shape of a tensor that is no input of the model."""
    if node.op not in ("Gather", "Slice"):
        return False
    source = node.inputs[0]
    while source.inputs and source.inputs[0].op in ("Cast", "Identity"):
        source = source.inputs[0].inputs[0]
    if not source.inputs or source.inputs[0].op != "Shape":
        return False
    return source.inputs[0].inputs[0].name not in model.inputs


def _from_input(
    node: gs.Node, found: _Partial, model: Model, shapes: Shapes, symbols: Mapping[str, int]
) -> list[gs.Node]:
    """Nodes that read the one size which ``node`` makes from an input of the model instead, if an input has it."""
    places = ((t, axis) for t in model.graph.inputs for axis, size in enumerate(shapes.get(t.name, ())) if size)
    wanted = int(found.origin.reshape(-1)[0])
    tensor, axis = next(((t, k) for t, k in places if symbols.get(str(shapes[t.name][k])) == wanted), (None, 0))
    if tensor is None or wanted == _UNKNOWN:
        return []
    output = node.outputs[0]
    node.outputs.clear()
    shape, size = (gs.Variable(f"{output.name}:{part}", np.int64) for part in ("shape", "size"))
    index = gs.Constant(f"{output.name}:index", np.full(found.values.shape, axis, np.int64))
    kind = onnx.helper.np_dtype_to_tensor_dtype(found.values.dtype)
    return [
        gs.Node("Shape", shape.name, inputs=[tensor], outputs=[shape]),
        gs.Node("Gather", size.name, {"axis": 0}, [shape, index], [size]),
        gs.Node("Cast", f"{output.name}:cast", {"to": kind}, [size], [output]),
    ]


def _evaluate(
    node: gs.Node,
    partial: Known,
    shapes: Shapes,
    symbols: Mapping[str, int],
    opset: int,
) -> _Partial | None:
    if node.op == "Shape":
        shape = shapes.get(node.inputs[0].name)
        if shape is None:
            return None
        attrs: Mapping[str, Any] = node.attrs
        return _sizes(shape[attrs.get("start", 0) : attrs.get("end", len(shape))], symbols)
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
            operands.append(_Partial(values, np.full(values.shape, _KNOWN)))
        else:
            return None
    integers = all(o is None or o.values.dtype.kind in "iub" for o in operands)
    if not integers and not any(t.name in partial for t in node.inputs):
        return None  # floating-point constants alone may be weights: fold_constants' work
    return _propagate(node, operands, opset)


def _sizes(shape: SymbolicShape, symbols: Mapping[str, int]) -> _Partial:
    values = [size if isinstance(size, int) else 1 for size in shape]
    origin = [_KNOWN if isinstance(s, int) else _UNKNOWN if s is None else symbols[s] for s in shape]
    return _Partial(np.array(values, np.int64), np.array(origin, np.int64))


def _propagate(node: gs.Node, operands: Sequence[_Partial | None], opset: int) -> _Partial | None:
    """The result of an operator of which some elements of some operands are known."""
    values = _run(node, operands, opset)
    if values is None or values.size > SHAPE_VALUES:
        return None
    if node.op in _MOVEMENT or (node.op == "Cast" and values.dtype.kind in "iu"):
        # Move the origins of the moved operands the same way.
        moved = len(operands) if node.op == "Concat" else 1
        if not all(o.known for o in operands[moved:] if o is not None):
            return None
        origins = [_Partial(o.origin, o.origin) if o and k < moved else o for k, o in enumerate(operands)]
        origin = _run(node, origins, opset)
        return None if origin is None else _Partial(values, origin)
    if (told := _told(node, operands, values)) is not None:
        return told
    origin = np.full(values.shape, _KNOWN)
    for operand in operands:
        if operand is not None and node.op in _ELEMENTWISE:
            origin = np.where(operand.origin == _KNOWN, origin, _UNKNOWN)
        elif operand is not None and not operand.known:
            return None
    return _Partial(values, origin)


def _told(node: gs.Node, operands: Sequence[_Partial | None], values: np.ndarray) -> _Partial | None:
    """What is known although an operand is not: no size is below 0, and a condition that is known chooses."""
    given = [o for o in operands if o is not None]
    if node.op == "Equal":
        a, b = given
        known = (a.origin == _KNOWN) & (b.origin == _KNOWN)
        known |= ((a.origin > 0) & (b.origin == _KNOWN) & (b.values < 0)) if b.values.dtype.kind == "i" else False
        known |= ((b.origin > 0) & (a.origin == _KNOWN) & (a.values < 0)) if a.values.dtype.kind == "i" else False
        return _Partial(values, np.where(known, _KNOWN, _UNKNOWN))
    if node.op == "Where":
        condition, a, b = given
        chosen = np.where(condition.values, a.origin, b.origin)
        return _Partial(values, np.where(condition.origin == _KNOWN, chosen, _UNKNOWN))
    return None


def _run(node: gs.Node, operands: Sequence[_Partial | None], opset: int) -> np.ndarray | None:
    """The operator on small tensors, by onnx's reference implementation; ``None`` where it has no meaning."""
    names = [f"x{k}" if o is not None else "" for k, o in enumerate(operands)]
    proto = onnx.helper.make_node(node.op, names, ["y"])
    proto.attribute.extend(OnnxExporter.export_attributes(node.attrs))
    present = [(n, o.values) for n, o in zip(names, operands, strict=True) if o is not None]
    if any(v.dtype.hasobject for _, v in present):
        return None
    given = tuple((n, v.dtype.str, v.shape, v.tobytes()) for n, v in present)
    return _computed(proto.SerializeToString(deterministic=True), given, opset)


@lru_cache(4096)
def _computed(node: bytes, given: tuple[tuple[str, str, tuple[int, ...], bytes], ...], opset: int) -> np.ndarray | None:
    """Layers ask the same again and again. The result is not to be written to."""
    values = {name: np.frombuffer(data, dtype).reshape(shape) for name, dtype, shape, data in given}
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in values.items()
    ]
    proto = onnx.NodeProto.FromString(node)
    graph = onnx.helper.make_graph([proto], "fold", inputs, [onnx.ValueInfoProto(name="y")])
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(single).run(None, values)
            return np.asarray(results[0])
    except Exception:  # the placeholder of an unknown element can be illegal, e.g. as a divisor or a Range step
        return None


def _spell_out(node: gs.Node, asked: _Partial | None, shapes: Shapes, symbols: Mapping[str, int]) -> bool:
    """Give a Reshape a constant target, if 0 (copy) and one -1 (the rest) can express what is not known of it."""
    source, target = shapes.get(node.inputs[0].name), shapes.get(node.outputs[0].name)
    if source is None:
        return False
    known = target is not None and None not in target and 0 not in target
    wanted = _sizes(target, symbols) if known and target is not None else asked  # asked may hold a 0 or -1 of its own
    if wanted is None or (node.attrs.get("allowzero", 0) and (wanted.values[wanted.origin == _KNOWN] == 0).any()):
        return False
    copied = [symbols.get(size, _UNKNOWN) if isinstance(size, str) else _UNKNOWN for size in source]
    spelled: list[int] = []
    for axis, (size, origin) in enumerate(zip(wanted.values.tolist(), wanted.origin.tolist(), strict=True)):
        same = origin > 0 and axis < len(copied) and copied[axis] == origin
        spelled.append(size if origin == _KNOWN else 0 if same else -1)
    if spelled.count(-1) > 1:
        return False
    node.attrs.pop("allowzero", None)
    node.inputs[1] = gs.Constant(f"{node.outputs[0].name}:shape", np.array(spelled, np.int64))
    return True


def _spell_out_copies(node: gs.Node, asked: _Partial | None, shapes: Shapes, symbols: Mapping[str, int]) -> bool:
    """Give an Expand a constant target, if its axes of unknown size keep it: 1 leaves an axis as it is."""
    source = shapes.get(node.inputs[0].name)
    if asked is None or source is None:
        return False
    sizes, origins = asked.values.tolist(), asked.origin.tolist()
    for back in range(1, len(sizes) + 1):
        if origins[-back] == _KNOWN:
            continue
        size = source[-back] if back <= len(source) else None
        if origins[-back] < 0 or not isinstance(size, str) or symbols[size] != origins[-back]:
            return False
        sizes[-back] = 1
    node.inputs[1] = gs.Constant(f"{node.outputs[0].name}:shape", np.array(sizes, np.int64))
    return True


def _join(node: gs.Node, index: int, partial: Known, outputs: set[str]) -> list[tuple[gs.Node, list[gs.Node]]]:
    """Let a list of sizes be joined of what is known of it, which then can follow a cut, and of what is not."""
    given = node.inputs[index]
    asked = partial.get(given.name)
    if asked is None or asked.values.ndim != 1 or asked.known or not (asked.origin == _KNOWN).any():
        return []
    known = (asked.origin == _KNOWN).tolist()
    if len(given.inputs) == 1 and given.inputs[0].op == "Concat" and given.name not in outputs:
        spelled = [
            isinstance(part, gs.Constant)
            for part in given.inputs[0].inputs
            for _ in range(np.size(part.values) if isinstance(part, gs.Constant) else partial[part.name].values.size)
        ]
        if spelled == known:
            return []
    name = f"{node.outputs[0].name}:sizes"
    parts: list[gs.Tensor] = []
    added = []
    for at, (size, certain) in enumerate(zip(asked.values, known, strict=True)):
        numbers = gs.Constant(f"{name}:{at}", np.array([size if certain else at], asked.values.dtype))
        if not certain:
            part = gs.Variable(f"{name}:{at}:size", asked.values.dtype)
            numbers.values = numbers.values.astype(np.int64)
            added.append(gs.Node("Gather", part.name, {"axis": 0}, [given, numbers], [part]))
        parts.append(numbers if certain else part)
    node.inputs[index] = joined = gs.Variable(name, asked.values.dtype)
    added.append(gs.Node("Concat", name, {"axis": 0}, parts, [joined]))
    return [(node, added)]


def _scale_instead(node: gs.Node, asked: _Partial | None, shapes: Shapes, symbols: Mapping[str, int]) -> bool:
    """Give a Resize constant scales for its computed sizes, if all axes of unknown size keep it."""
    source = shapes.get(node.inputs[0].name)
    if asked is None or source is None or len(source) != asked.values.size or "axes" in node.attrs:
        return False
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    scales = []
    for size, wanted, origin in zip(source, asked.values.tolist(), asked.origin.tolist(), strict=True):
        if isinstance(size, int) and origin == _KNOWN:
            scale = np.float32(wanted) / np.float32(size)
            if int(np.float32(size) * scale) != wanted:
                return False  # rounding would make it another size
            scales.append(scale)
        elif isinstance(size, str) and symbols[size] == origin:
            scales.append(np.float32(1))
        else:
            return False
    constant = gs.Constant(f"{node.outputs[0].name}:scales", np.array(scales, np.float32))
    node.inputs = [*list(node.inputs)[:2], constant]
    return True
