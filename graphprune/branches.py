"""Residual branches: the layers of a network that can go as a whole, found by the structure of the graph.

In ``y = s + f(s)`` the sum's operand ``f(s)`` is a branch. It may go whatever it computes: then ``y = s``. **The law of
layers**: removing a branch equals multiplying by zero all that leaves it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from weakref import WeakKeyDictionary

import networkx as nx
import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from graphprune.calls import operator
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.model.surgeon import is_standard, opaque

ATTENTION, CONVOLUTION, FEED_FORWARD = "attention", "convolution", "feed-forward"

# What these hand on is no longer the data, only its size.
_ASKS_SIZE = frozenset(["Shape", "Size"])
_CONVOLUTIONS = frozenset(["Conv", "ConvTranspose", "DeformConv", "QLinearConv"])


@dataclass(frozen=True)
class Branch:
    """One residual branch.

    Attributes:
        sum: name of the tensor ``y`` of ``y = s + f(s)``; it names the branch.
        stream: name of ``s``.
        output: name of ``f(s)``, which nothing else reads.
        kind: ``attention`` where positions are mixed by a softmax, ``convolution``, else ``feed-forward``.
        nodes: how many nodes lie between ``s`` and ``f(s)``.
        caches: outputs of the model that are made within the branch, such as its keys and values.
        inner: the branches within it.
    """

    sum: str
    stream: str
    output: str
    kind: str
    nodes: int
    caches: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()


_known: WeakKeyDictionary[Model, tuple[Branch, ...]] = WeakKeyDictionary()  # looked for once per model


def branches(model: Model) -> tuple[Branch, ...]:
    """Every residual branch, in graph order; one that contains others comes after them.

    An addition of two computed tensors of one shape ends a branch where, seen from an input of the model or from the
    embedding of one, the one operand, before any casts, dominates the other (every path to it leads through the one),
    only the sum reads the other, and what lies in between has weights and leads nowhere else, but for outputs of the
    model that nothing else has a part in. Without weights it is no layer, like x³ in an activation function.
    """
    if model not in _known:
        _known[model] = _branches(model)
    return _known[model]


def _branches(model: Model) -> tuple[Branch, ...]:
    flow = _Flow(model)
    found: list[Branch] = []
    for node in model.graph.nodes:
        if not _adds(node) or opaque(node):
            continue
        total = node.outputs[0]
        for stream, output in (node.inputs, node.inputs[::-1]):
            if len(output.outputs) != 1 or output.name in model.outputs or not _alike(model, stream, output, total):
                continue
            start = next((name for name in _before_casts(stream) if flow.dominates(name, output.name)), None)
            if start is None or not (inner := flow.between(start, output.name)):
                continue
            nodes = [model.graph.nodes[k] for k in inner if isinstance(k, int)]
            caches = flow.ends(inner, output.name, total.name)
            if caches is not None and any(map(_has_weights, nodes)):
                within = tuple(branch.sum for branch in found if branch.sum in inner)
                found.append(Branch(total.name, stream.name, output.name, _kind(nodes), len(nodes), caches, within))
                break
    return tuple(found)


def blocks(found: Sequence[Branch]) -> list[tuple[Branch, ...]]:
    """Branches by whole blocks: one or more of attention with what follows until the next; others by themselves."""
    made: list[list[Branch]] = []
    for branch in found:
        last = made[-1] if made else []
        starts = branch.kind == ATTENTION and any(b.kind != ATTENTION for b in last)
        if not last or starts or last[0].kind != ATTENTION:
            made.append([branch])
        else:
            last.append(branch)
    return [tuple(block) for block in made]


def without(model: Model, names: Collection[str], *, keep_caches: bool = True) -> Model:
    """The model without some branches; what only they needed is gone.

    Args:
        model: unchanged.
        names: the sums of the branches.
        keep_caches: whether outputs made in the branches stay, holding what the model was given for them followed by
            zeros; else they go, with the inputs that nothing else reads. Where no input tells how many zeros, a cache
            goes on being computed.

    Raises:
        UsageError: a name is none of a branch.
    """
    result = model.copy()
    tensors = result.graph.tensors()
    zeros: list[gs.Node] = []
    going: set[str] = set()
    for branch in named(model, names):
        node = tensors[branch.sum].inputs[0]
        node.op, node.attrs, node.inputs = "Identity", {}, [tensors[branch.stream]]
        if not keep_caches:
            going.update(branch.caches)
            continue
        for cache, reader, place, sizes in _padded(model, branch, result.graph):
            zeros += _zeros(cache, sizes, _dtype(model, cache), tensors)
            reader.inputs[place] = zeros[-1].outputs[0]
    result.graph.nodes[:0] = zeros
    return _narrowed(result, going) if going else result.with_nodes(result.graph.nodes)


def silenced(model: Model, names: Collection[str], *, keep_caches: bool = True) -> Model:
    """The law's other side: the same model with all that leaves some branches multiplied by zero.

    With ``keep_caches`` that includes what they append to caches, as far as ``without`` replaces it.
    """
    result = model.copy()
    for branch in named(model, names):
        places = [_reader(result.graph, branch.sum, branch.output)]
        if keep_caches:
            places += [(node, place) for _, node, place, _ in _padded(model, branch, result.graph)]
        for node, place in places:
            name = node.inputs[place].name
            _scale(result.graph, node, place, gs.Constant(f"{name}:zero", np.zeros((), _dtype(model, name))))
    return replace(result)


def gated(model: Model, found: Sequence[Branch]) -> Model:
    """The model with an input of no axes for every branch, called like its sum and ``:gate``, to scale its output."""
    result = model.copy()
    header = ModelProto()
    header.CopyFrom(model.header)
    for branch in found:
        dtype = _dtype(model, branch.output)
        gate = gs.Variable(f"{branch.sum}:gate", dtype, ())
        _scale(result.graph, *_reader(result.graph, branch.sum, branch.output), gate)
        result.graph.inputs.append(gate)
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        header.graph.input.append(helper.make_tensor_value_info(gate.name, kind, ()))
    shapes = {**model.input_shapes, **{f"{branch.sum}:gate": () for branch in found}}
    return replace(result, header=header, input_shapes=shapes)


def named(model: Model, names: Collection[str]) -> list[Branch]:
    """The branches with these sums, in graph order.

    Raises:
        UsageError: a name is none of a branch.
    """
    known = {branch.sum: branch for branch in branches(model)}
    if unknown := sorted(set(names) - known.keys()):
        raise UsageError(
            f"{model.name} has no residual branch that ends in '{unknown[0]}'",
            f"it has {', '.join(list(known)[:5])}…" if known else "it has none",
        )
    return [branch for name, branch in known.items() if name in set(names)]


# ------------------------------------------------------------------------------------------------- finding branches


class _Flow:
    """Where data go: a graph of tensor names and node positions, without constants and without what asks for sizes."""

    def __init__(self, model: Model) -> None:
        self._graph = nx.DiGraph()
        self._sources = [*model.inputs, *(n.outputs[0].name for n in model.graph.nodes if _looks_up(n))]
        self._outputs = set(model.outputs)
        self._trees: dict[str, dict[object, object]] = {}
        for k, node in enumerate(model.graph.nodes):
            if is_standard(node) and node.op in _ASKS_SIZE:
                continue
            self._graph.add_edges_from((t.name, k) for t in node.inputs if isinstance(t, gs.Variable) and t.name)
            self._graph.add_edges_from((k, t.name) for t in node.outputs if t.name)

    def between(self, start: str, end: str) -> set[object]:
        """All that lies on a path from one tensor to another, without the two."""
        if start not in self._graph or end not in self._graph:
            return set()
        return (nx.descendants(self._graph, start) & nx.ancestors(self._graph, end)) - {start, end}

    def dominates(self, first: str, second: str) -> bool:
        """Whether, from some input of the model or some lookup, every path to ``second`` leads through ``first``."""
        for source in self._sources:
            if source not in self._graph:
                continue
            if source not in self._trees:
                self._trees[source] = nx.immediate_dominators(self._graph, source)
            tree: dict[object, object] = self._trees[source]
            at: object = second
            while at != first and tree.get(at) not in (None, at):
                at = tree[at]
            if at == first and second in tree:
                return True
        return False

    def ends(self, inner: set[object], output: str, total: str) -> tuple[str, ...] | None:
        """The outputs of the model that ``inner`` leads to without ``total``; ``None`` where it leads elsewhere too."""
        others = {
            reader
            for name in inner
            for reader in self._graph.successors(name)
            if reader not in inner and reader != output
        }
        reached = others.union(*(nx.descendants(self._graph, other) for other in others)) if others else set()
        made = {name for name in inner | reached if name in self._outputs}
        if reached & (nx.descendants(self._graph, total) | {total}):
            return None
        if any(isinstance(k, int) and not set(self._graph.successors(k)) <= reached | inner for k in reached):
            return None
        return tuple(sorted(made))


def _alike(model: Model, *tensors: gs.Tensor) -> bool:
    """Whether tensors have the same sizes, whatever sizes the inputs have."""
    shapes = {model.shapes.get(t.name, (None,)) for t in tensors}
    varying = {tuple(k for k in range(8) if (t.name, k) in model.varying) for t in tensors}
    return len(shapes) == len(varying) == 1 and None not in shapes.pop()


def _adds(node: gs.Node) -> bool:
    return (
        is_standard(node)
        and node.op in ("Add", "Sum")
        and len(node.inputs) == 2
        and all(isinstance(t, gs.Variable) for t in node.inputs)
        and node.inputs[0] is not node.inputs[1]
    )


def _looks_up(node: gs.Node) -> bool:
    """Whether a node looks embeddings up: a mask made of the same tokens goes another way."""
    return is_standard(node) and node.op == "Gather" and isinstance(node.inputs[0], gs.Constant) and _has_weights(node)


def _before_casts(tensor: gs.Tensor) -> Iterator[str]:
    """A tensor and those that it was in another precision, as where residuals are kept in float32; the latest first."""
    yield tensor.name
    while len(tensor.inputs) == 1 and is_standard(made := tensor.inputs[0]) and made.op in ("Cast", "Identity"):
        tensor = made.inputs[0]
        yield tensor.name


def _has_weights(node: gs.Node) -> bool:
    """Whether a node reads constants other than single numbers, shapes and indices, or may hold some in a body."""
    constants = (t for t in node.inputs if isinstance(t, gs.Constant))
    return opaque(node) or any(prod(t.shape) > 1 and t.dtype not in (np.int32, np.int64, np.bool_) for t in constants)


def _kind(nodes: Sequence[gs.Node]) -> str:
    operators = {operator(node).rpartition(".")[2] for node in nodes}
    if any(name == "Softmax" or "Attention" in name for name in operators):
        return ATTENTION
    return CONVOLUTION if operators & _CONVOLUTIONS else FEED_FORWARD


# ------------------------------------------------------------------------------------------------------- rewriting


def _dtype(model: Model, name: str) -> np.dtype:
    return model.dtypes.get(name, np.dtype(np.float32))


def _reader(graph: gs.Graph, total: str, output: str) -> tuple[gs.Node, int]:
    """The node that makes the sum ``total``, and where it reads ``output``."""
    node = graph.tensors()[total].inputs[0]
    return node, next(k for k, t in enumerate(node.inputs) if t.name == output)


def _scale(graph: gs.Graph, node: gs.Node, place: int, factor: gs.Tensor) -> None:
    """Let a node read its input at ``place`` multiplied by ``factor``."""
    scaled = gs.Variable(f"{node.inputs[place].name}:scaled")
    made = gs.Node("Mul", scaled.name, inputs=[node.inputs[place], factor], outputs=[scaled])
    node.inputs[place] = scaled
    graph.nodes.insert(next(k for k, other in enumerate(graph.nodes) if other is node), made)


Sizes = list[int | tuple[str, int]]
"""Of a tensor: each size as a number, or as an input of the model and its axis."""


def _padded(model: Model, branch: Branch, graph: gs.Graph) -> Iterator[tuple[str, gs.Node, int, Sizes]]:
    """For every cache of a branch whose sizes are known: its name, who reads what is new in it and where, the sizes.

    New is what a Concat appends to an input of the model; without one all of it is.
    """
    tensors = graph.tensors()
    for name in branch.caches:
        node = tensors[name].inputs[0]
        appends = node.op == "Concat" and len(node.inputs) == 2 and node.inputs[0].name in model.inputs
        if (sizes := _sizes(model, node.inputs[1].name if appends else name)) is None:
            continue
        place = 1 if appends else 0
        if not appends:
            computed = gs.Variable(f"{name}:computed")
            node.outputs = [computed if t.name == name else t for t in node.outputs]
            copy = gs.Node("Identity", f"{name}:copy", inputs=[computed], outputs=[tensors[name]])
            graph.nodes.insert(next(k for k, other in enumerate(graph.nodes) if other is node) + 1, copy)
            node = copy
        yield name, node, place, sizes


def _sizes(model: Model, name: str) -> Sizes | None:
    """The sizes of a tensor as inputs of the model have them, if they do."""
    places = {
        size: (given, axis)
        for given in model.inputs
        for axis, size in enumerate(model.symbolic_shapes.get(given, ()))
        if isinstance(size, str)
    }
    shape = model.symbolic_shapes.get(name, (None,))
    found = [size if isinstance(size, int) else places.get(size or "") for size in shape]
    return None if None in found else found  # type: ignore[return-value]


def _zeros(name: str, sizes: Sizes, dtype: np.dtype, tensors: dict[str, gs.Tensor]) -> list[gs.Node]:
    """Nodes that make zeros of these sizes, the last of them the zeros."""
    nodes, parts = [], []
    for k, size in enumerate(sizes):
        if isinstance(size, int):
            parts.append(gs.Constant(f"{name}:size{k}", np.array([size], np.int64)))
            continue
        given, axis = size
        shape, part = gs.Variable(f"{name}:shape{k}", np.int64), gs.Variable(f"{name}:size{k}", np.int64)
        index = gs.Constant(f"{name}:axis{k}", np.array([axis], np.int64))
        nodes.append(gs.Node("Shape", shape.name, inputs=[tensors[given]], outputs=[shape]))
        nodes.append(gs.Node("Gather", part.name, {"axis": 0}, [shape, index], [part]))
        parts.append(part)
    joined, made = gs.Variable(f"{name}:sizes", np.int64), gs.Variable(f"{name}:zeros", dtype)
    nodes.append(gs.Node("Concat", joined.name, {"axis": 0}, parts, [joined]))
    value = gs.Constant(f"{name}:zero", np.zeros(1, dtype))
    nodes.append(gs.Node("ConstantOfShape", made.name, {"value": value}, [joined], [made]))
    return nodes


def _narrowed(model: Model, going: Collection[str]) -> Model:
    """The model without some outputs, and without the inputs that only they needed."""
    graph = model.graph
    fed = {t.name for t in graph.inputs if t.outputs}
    graph.outputs[:] = [t for t in graph.outputs if t.name not in going]
    result = model.with_nodes(graph.nodes)
    read = {t.name for node in graph.nodes for t in node.inputs} | {t.name for t in graph.outputs}
    graph.inputs[:] = [t for t in graph.inputs if t.name in read or t.name not in fed]
    header = ModelProto()
    header.CopyFrom(model.header)
    for infos, tensors in ((header.graph.input, graph.inputs), (header.graph.output, graph.outputs)):
        kept = [info for info in infos if info.name in {t.name for t in tensors}]
        del infos[:]
        infos.extend(kept)
    shapes = {t.name: model.input_shapes[t.name] for t in graph.inputs}
    return replace(result, header=header, input_shapes=shapes)
