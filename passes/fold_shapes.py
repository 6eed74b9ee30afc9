"""Evaluate shape arithmetic before anything is cut, so that it pins nothing it need not pin."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphprune.collector import paused
from graphprune.model import Model
from graphprune.model.partial import KNOWN, UNKNOWN, Known, Partial, Shapes, evaluate, sizes_of
from graphprune.model.shapes import SymbolicShape, infer_node, symbol
from graphprune.model.surgeon import is_standard
from graphprune.state import State

# Operators that take a list of sizes, and the input that holds it.
_SIZES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}

# Operators of which onnx's inference tells no size where it cannot tell all.
_LOSES_SHAPE = frozenset(["ConstantOfShape", "Expand", "Slice", "Tile"])


@dataclass(frozen=True)
class FoldShapes:
    """Partial evaluation of ``Shape`` and what is computed from it, with symbolic dimensions left symbolic.

    Tensors that come out fully known become constants; the target of a Reshape is spelled out with 0 and -1, and that
    of a Resize as scales, where that says the same. A size that stays symbolic is read from the input of the model that
    has it, so that no tensor in between is held by having been asked.
    """

    @paused()
    def __call__(self, state: State) -> State:
        """A state whose model computes the same with fewer nodes, or the same state."""
        model, own, shapes = state.model, state.model.copy(), dict(state.model.symbolic_shapes)
        while (folded := _fold(own, model, shapes)) is not None:
            model = own = folded
            shapes = _known_so_far(folded.symbolic_shapes, shapes, _declared(folded))
        return state if model is state.model else replace(state, model=model)


def _declared(model: Model) -> set[str]:
    """The symbolic sizes of the inputs: those that inference makes up mean nothing in another model."""
    return {symbol(dim) for info in model.inputs.values() for dim in info.type.tensor_type.shape.dim}


def _known_so_far(now: Shapes, before: Shapes, declared: Collection[str]) -> dict[str, SymbolicShape]:
    """Shapes as inferred anew, less what inference has forgotten."""

    def better(name: str, shape: SymbolicShape) -> SymbolicShape:
        was = before.get(name, ())
        if len(was) != len(shape):
            return shape
        return tuple(b if isinstance(b, int) or b in declared else a for a, b in zip(shape, was, strict=True))

    return {name: better(name, shape) for name, shape in now.items()}


def _fold(result: Model, model: Model, shapes: dict[str, SymbolicShape]) -> Model | None:
    """What a model becomes by what is known of it; none where nothing changes.

    Args:
        result: whose graph may be changed, and is unless there is none.
        model: the same, and what is inferred of it is kept.
        shapes: of its tensors; what more is found is noted there.
    """
    sizes = {size for shape in shapes.values() for size in shape if isinstance(size, str)}
    symbols = {name: k for k, name in enumerate(sorted(sizes), start=1)}
    declared = _declared(model)
    names = {k: name for name, k in symbols.items() if name in declared}
    better: set[str] = set()  # tensors of which more is known than onnx's inference of the whole graph finds
    partial: dict[str, Partial] = {}
    changed = False
    outputs = {t.name for t in result.graph.outputs}
    rooted: list[gs.Node] = []
    joins: list[tuple[gs.Node, list[gs.Node]]] = []
    for node in result.graph.nodes:
        if not is_standard(node):
            continue
        spelled = False
        if node.op == "Reshape" and isinstance(node.inputs[1], gs.Variable):
            spelled = _spell_out(node, partial.get(node.inputs[1].name), shapes, symbols)
        if node.op == "Expand" and isinstance(node.inputs[1], gs.Variable):
            spelled = _spell_out_copies(node, partial.get(node.inputs[1].name), shapes, symbols)
        changed |= spelled
        if (listed := _SIZES.get(node.op)) is not None and isinstance(node.inputs[listed], gs.Variable):
            joins += _join(node, listed, partial, outputs)
        if node.op == "Resize" and len(node.inputs) > 3 and isinstance(node.inputs[3], gs.Variable):
            changed |= _scale_instead(node, partial.get(node.inputs[3].name), shapes, symbols)
        if spelled or node.op in _LOSES_SHAPE or any(t.name in better for t in node.inputs):
            better.update(_learn(node, partial, shapes, names, model))
        found = evaluate(node, partial, shapes, symbols, model.opset)
        if found is None:
            continue
        output = node.outputs[0]
        partial[output.name] = found
        if found.known and output.name not in outputs:
            node.outputs.clear()
            output.to_constant(found.values)
            better.add(output.name)
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
    bounded = node.op == "Slice" and all(isinstance(t, gs.Constant) for t in node.inputs[1:])
    if node.op in _LOSES_SHAPE and not bounded:
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
        found = [size if origin == KNOWN else names.get(origin) for size, origin in pairs]
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
    node: gs.Node, found: Partial, model: Model, shapes: Shapes, symbols: Mapping[str, int]
) -> list[gs.Node]:
    """Nodes that read the one size which ``node`` makes from an input of the model instead, if an input has it."""
    places = ((t, axis) for t in model.graph.inputs for axis, size in enumerate(shapes.get(t.name, ())) if size)
    wanted = int(found.origin.reshape(-1)[0])
    tensor, axis = next(((t, k) for t, k in places if symbols.get(str(shapes[t.name][k])) == wanted), (None, 0))
    if tensor is None or wanted == UNKNOWN:
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


def _spell_out(node: gs.Node, asked: Partial | None, shapes: Shapes, symbols: Mapping[str, int]) -> bool:
    """Give a Reshape a constant target, if 0 (copy) and one -1 (the rest) can express what is not known of it."""
    source, target = shapes.get(node.inputs[0].name), shapes.get(node.outputs[0].name)
    if source is None:
        return False
    known = target is not None and None not in target and 0 not in target
    wanted = sizes_of(target, symbols) if known and target is not None else asked  # asked may hold a 0 or -1 of its own
    if known and wanted is not None and asked is not None:
        told = (asked.origin == KNOWN) & (asked.values > 0)
        wanted = Partial(np.where(told, asked.values, wanted.values), np.where(told, KNOWN, wanted.origin))
    if wanted is None or (node.attrs.get("allowzero", 0) and (wanted.values[wanted.origin == KNOWN] == 0).any()):
        return False
    copied = [symbols.get(size, UNKNOWN) if isinstance(size, str) else UNKNOWN for size in source]
    spelled: list[int] = []
    for axis, (size, origin) in enumerate(zip(wanted.values.tolist(), wanted.origin.tolist(), strict=True)):
        same = origin > 0 and axis < len(copied) and copied[axis] == origin
        spelled.append(size if origin == KNOWN else 0 if same else -1)
    if spelled.count(-1) > 1:
        return False
    node.attrs.pop("allowzero", None)
    node.inputs[1] = gs.Constant(f"{node.outputs[0].name}:shape", np.array(spelled, np.int64))
    return True


def _spell_out_copies(node: gs.Node, asked: Partial | None, shapes: Shapes, symbols: Mapping[str, int]) -> bool:
    """Give an Expand a constant target, if its axes of unknown size keep it: 1 leaves an axis as it is."""
    source = shapes.get(node.inputs[0].name)
    if asked is None or source is None:
        return False
    sizes, origins = asked.values.tolist(), asked.origin.tolist()
    for back in range(1, len(sizes) + 1):
        if origins[-back] == KNOWN:
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
    if asked is None or asked.values.ndim != 1 or asked.known or not (asked.origin == KNOWN).any():
        return []
    known = (asked.origin == KNOWN).tolist()
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


def _scale_instead(node: gs.Node, asked: Partial | None, shapes: Shapes, symbols: Mapping[str, int]) -> bool:
    """Give a Resize constant scales for its computed sizes, if all axes of unknown size keep it."""
    source = shapes.get(node.inputs[0].name)
    if asked is None or source is None or len(source) != asked.values.size or "axes" in node.attrs:
        return False
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    scales = []
    for size, wanted, origin in zip(source, asked.values.tolist(), asked.origin.tolist(), strict=True):
        if isinstance(size, int) and origin == KNOWN:
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
