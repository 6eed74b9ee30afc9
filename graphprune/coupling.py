"""The dependency graph: every axis of every tensor, tied by what the operators' rules say, pinned by what they do not.

A ``networkx.MultiGraph`` with a node for every axis and an edge for every tie (after Fang et al. 2023, "DepGraph", and
Wang et al. 2024, "Structurally Prune Anything", with positions in place of layers).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import networkx as nx
import numpy as np
import onnx
from networkx.utils import UnionFind
from onnx_graphsurgeon.ir.tensor import SparseValues

from graphprune.calls import boundary, calls, left_out, node_name, numbered, operator, rule_of, zero_points
from graphprune.model import Model
from graphprune.rules import Call, Choice, Dim, Pin, Rule, Tie, never

# Element types a cut may slice; sub-byte types are packed across positions, strings carry no channel.
_CUTTABLE_KINDS = "fiub"

PinnedBy = tuple[str, str, str, np.ndarray | None]
"""A node that holds an axis, its operator, why, and which positions it holds, ``None`` for all."""

Open = tuple[str, str, Choice]
"""A choice still to be taken, with the name and operator of the node that leaves it."""


def couple(
    model: Model, rules: Mapping[str, Rule] | None = None, *, inexact: bool = False
) -> tuple[nx.MultiGraph, list[Open]]:
    """The dependency graph: axes (with ``size``, ``pins``, ``inexact``) joined by ties (edge attribute ``tie``).

    With ``inexact``, pins that say so only mark their axis. An axis that something is shared out along, or chosen from,
    says in ``least`` how many positions have to stay. The choices that rules leave are not in the graph yet: ``settle``
    takes them.
    """
    graph = nx.MultiGraph()
    choices: list[Open] = []
    unread = {name for node in model.nodes for name in left_out(model, node)}
    for name, shape in model.shapes.items():
        for axis, size in enumerate(shape):
            if size is not None and name not in unread:
                graph.add_node(Dim(name, axis), size=size, pins=[], inexact=False, least=0)

    def pin(dim: Dim, node: str, op: str, why: str, at: np.ndarray | None = None) -> None:
        if dim in graph and graph.nodes[dim]["size"] > 1:
            graph.nodes[dim]["pins"].append((node, op, why, at))

    def pin_tensor(name: str, node: str, op: str, why: str) -> None:
        for axis in range(len(model.shapes.get(name, ()))):
            pin(Dim(name, axis), node, op, why)

    for kind, interface in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for tensor in interface:
            pin_tensor(tensor.name, tensor.name, "", f"graph {kind}")
    for name, axis in sorted(model.varying):
        pin(Dim(name, axis), name, "", "its size follows a symbolic dimension of an input")
    for name, constant in model.constants.items():
        if isinstance(constant._values, SparseValues):
            pin_tensor(name, name, "", "stored as a sparse tensor")
        elif getattr(constant.dtype, "kind", "?") not in _CUTTABLE_KINDS:
            kind = constant.dtype
            kind = onnx.TensorProto.DataType.Name(kind).lower() if isinstance(kind, int) else kind
            pin_tensor(name, name, "", f"stored as {kind}, which is not cut")

    silent = _Silence(model, rules)
    called = list(calls(model, model.nodes))
    numbers, strangers = numbered(model, called, rules)
    for node, call in called:
        rule = rule_of(node, rules)
        name, op = node_name(node), operator(node)
        try:
            said_of = list(rule.ties(call)) if rule and call else []
            routing, counting = (rule.routes(call), rule.counts(call)) if rule and call else (None, None)
            if counting and (chosen_from := numbers.get(node.inputs[counting.numbers].name)) is not None:
                axes = [chosen_from, *counting.axes]
                every = np.arange(model.shapes[chosen_from.tensor][chosen_from.axis])  # type: ignore[arg-type]
                said_of += [Tie(a, b, every, every) for a, b in pairwise(axes)]
            _check(said_of, model)
            why = f"no rule for operator {op}" if rule is None else rule.why
            why = why or f"a shape at {op} is unknown before run time"
        except Exception:  # onnx checks the shapes of few operators; what does not fit together has no positions to tie
            rule, why = None, f"its operands do not fit together as {op} wants them"
        if call is None or rule is None:
            for tensor in boundary(model, node):
                pin_tensor(tensor.name, name, op, why)
            continue
        spoken: dict[Dim, list[np.ndarray]] = {}
        ties: list[Tie] = []
        for said in said_of:
            if isinstance(said, Pin):
                if said.inexact and inexact:
                    graph.nodes[said.dim]["inexact"] = True
                else:
                    pin(said.dim, name, op, said.why)
                spoken.setdefault(said.dim, [np.arange(graph.nodes[said.dim]["size"])])
                continue
            if isinstance(said, Choice):
                choices.append((name, op, said))
            else:
                graph.add_edge(said.a, said.b, tie=said)
            for one in chain.from_iterable(said.options) if isinstance(said, Choice) else (said,):
                ties.append(one)
                spoken.setdefault(one.a, []).append(one.at_a)
                spoken.setdefault(one.b, []).append(one.at_b)
                if one.summed and len(missed := np.flatnonzero(~(silent[one.a][one.at_a] | silent[one.b][one.at_b]))):
                    for dim, at in ((one.a, one.at_a), (one.b, one.at_b)):
                        pin(dim, name, op, "summed over, and not zero for certain once its weights are", at[missed])
        silent.follow(rule, call, ties)
        if routing is not None:
            routed = call.inputs[routing.input].dim(routing.axis)  # type: ignore[union-attr]
            stranger = strangers.get(node.outputs[routing.numbers].name) if routing.numbers is not None else None
            if stranger:
                pin(routed, name, op, f"{op} chooses from it, and {stranger} makes something else of the choice")
            else:
                least = 1 if routing.clipped else max(1, routing.chosen)
                graph.nodes[routed]["least"] = max(least, graph.nodes[routed]["least"])
                silent.absent(routed, call, ties)
        if counting is not None and (counting.empty or len(counting.axes) > 1):
            *before, last = counting.axes
            silent[last] = np.ones_like(silent[last]) if counting.empty else silent[before[0]]
        results = {o.name for o in call.results if o is not None}
        for operand in call.present:
            for axis in range(operand.rank):
                dim = Dim(operand.name, axis)
                if dim not in spoken:
                    pin(dim, name, op, rule.why or f"{op} depends on every position of this axis")
                elif operand.name in results and max(map(len, spoken[dim])) < operand.shape[axis]:
                    missing = np.setdiff1d(np.arange(operand.shape[axis]), np.concatenate(spoken[dim]))
                    if len(missing):
                        pin(dim, name, op, f"{op} makes these positions itself", missing)
    return graph, choices


def _check(said: Iterable[Tie | Pin | Choice], model: Model) -> None:
    """Raise IndexError where a tie names positions that its axes do not have."""
    ties = (chain.from_iterable(s.options) if isinstance(s, Choice) else (s,) for s in said if not isinstance(s, Pin))
    for tie in chain.from_iterable(ties):
        for dim, at in ((tie.a, tie.at_a), (tie.b, tie.at_b)):
            size = model.shapes[dim.tensor][dim.axis]
            if size is not None and at.size and int(at.max()) >= size:
                raise IndexError(f"{dim} has {size} positions")


class _Silence(dict[Dim, np.ndarray]):
    """Which positions of each axis are silent, bool [axis size]: for constants, and for results of nodes followed."""

    def __init__(self, model: Model, rules: Mapping[str, Rule] | None) -> None:
        super().__init__()
        self._sizes = model.shapes
        awake = {  # zeroing gives these another value than 0
            node.inputs[index].name
            for node in model.nodes
            if (rule := rule_of(node, rules))
            for index in rule.neutral
            if index < len(node.inputs)
        }
        floating = {name for name, c in model.constants.items() if getattr(c.dtype, "kind", "") == "f"}
        quantized = zero_points(model, rules).keys()
        dequantized = {
            node.outputs[0].name
            for node in model.nodes
            if node.op == "DequantizeLinear" and node.inputs[0].name in quantized
        }
        for name in (floating - awake) | quantized | dequantized:
            for axis, size in enumerate(self._sizes[name]):
                self[Dim(name, axis)] = np.ones(size or 0, bool)

    def __missing__(self, dim: Dim) -> np.ndarray:
        return np.zeros(self._sizes[dim.tensor][dim.axis] or 0, bool)

    def follow(self, rule: Rule, call: Call, ties: Sequence[Tie]) -> None:
        """Note which positions of a node's results are silent."""
        if rule.silence is never:
            return
        place: dict[str, list[int]] = {}
        for k, operand in enumerate(call.sources):
            if operand is not None:
                place.setdefault(operand.name, []).append(k)
        results = {o.name for o in call.results if o is not None}
        met: dict[Dim, tuple[np.ndarray, np.ndarray]] = {}  # output axis: tied, and tied to what is not silent
        for tie in ties:
            for y, at_y, x, at_x in ((tie.a, tie.at_a, tie.b, tie.at_b), (tie.b, tie.at_b, tie.a, tie.at_a)):
                if y.tensor in results and (x.tensor in place or x == y):
                    if y not in met:
                        shape = (len(call.sources), self._sizes[y.tensor][y.axis])
                        met[y] = (np.zeros(shape, bool), np.zeros(shape, bool))  # type: ignore[arg-type]
                    for k in place.get(x.tensor, ()):
                        met[y][0][k, at_y] = True
                        met[y][1][k, at_y[~self[x][at_x]]] = True
        for y, (tied, loud) in met.items():
            self[y] = rule.silence(call, tied & ~loud)

    def absent(self, routed: Dim, call: Call, ties: Sequence[Tie]) -> None:
        """Note that results are zero wherever their position is absent from an axis that is shared out."""
        results = {o.name for o in call.outputs if o is not None}
        for tie in ties:
            for here, there, at in ((tie.a, tie.b, tie.at_b), (tie.b, tie.a, tie.at_a)):
                if here == routed and there.tensor in results:
                    self[there] = self[there].copy()
                    self[there][at] = True


@dataclass(frozen=True, eq=False)
class Cluster:
    """Choices that can have to do with one another, and the part of the graph they are about."""

    dims: list[Dim]
    ties: list[Tie]
    choices: list[Open]


def clusters(graph: nx.MultiGraph, choices: Sequence[Open]) -> list[Cluster]:
    """The choices, with those that can have to do with one another together."""
    linked = UnionFind(graph.nodes)
    for a, b in graph.edges():
        linked.union(a, b)
    for *_, choice in choices:
        linked.union(*_mentioned(chain.from_iterable(choice.options)))
    found: dict[Dim, Cluster] = {}
    for name, op, choice in choices:
        root = linked[choice.options[0][0].a]
        found.setdefault(root, Cluster([], [], [])).choices.append((name, op, choice))
    for dim in graph:
        if (root := linked[dim]) in found:
            found[root].dims.append(dim)
    for a, _, tie in graph.edges(data="tie"):
        if (root := linked[a]) in found:
            found[root].ties.append(tie)
    return list(found.values())


def _mentioned(ties: Iterable[Tie]) -> dict[Dim, None]:
    return dict.fromkeys(dim for tie in ties for dim in (tie.a, tie.b))


@dataclass(frozen=True, eq=False)
class Settled:
    """Every choice of a cluster taken: what that adds to the graph.

    Attributes:
        ties: of the options taken.
        pins: of the axes that only other options mention, by axis.
        ambiguous: whether any choice had more than one option that something could be cut by.
    """

    ties: list[Tie]
    pins: dict[Dim, list[PinnedBy]]
    ambiguous: bool

    def add_to(self, graph: nx.MultiGraph) -> None:
        """Put it into the graph."""
        for tie in self.ties:
            graph.add_edge(tie.a, tie.b, tie=tie)
        for dim, pins in self.pins.items():
            graph.nodes[dim]["pins"] += pins


def settle(graph: nx.MultiGraph, cluster: Cluster, innermost: Collection[str] = ()) -> Settled:
    """Take every choice: the first option that something can be cut by, seen from the outermost axis.

    Operators in ``innermost`` are seen from the innermost one. The axes that only the options not taken mention are
    pinned, so that later choices go along with earlier ones. The graph stays as it is.
    """
    linked = UnionFind(cluster.dims)
    for tie in cluster.ties:
        linked.union(tie.a, tie.b)
    held = {linked[dim] for dim in cluster.dims if any(at is None for *_, at in graph.nodes[dim]["pins"])}
    settled: list[Tie] = []
    pins: dict[Dim, list[PinnedBy]] = {}
    ambiguous = False
    for name, op, choice in cluster.choices:
        options = choice.options[::-1] if op in innermost else choice.options
        possible = [ties for ties in options if any(not {linked[t.a], linked[t.b]} & held for t in ties)]
        ambiguous |= len(possible) > 1
        taken = (possible or options)[0]
        settled += taken
        for tie in taken:
            pinned = linked[tie.a] in held or linked[tie.b] in held
            linked.union(tie.a, tie.b)
            if pinned:
                held.add(linked[tie.a])
        for dim in _mentioned(chain.from_iterable(options)).keys() - _mentioned(taken):
            pins.setdefault(dim, []).append((name, op, f"{op} joins it with an axis that goes instead", None))
            held.add(linked[dim])
    return Settled(settled, pins, ambiguous)
