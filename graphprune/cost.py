"""What a model costs: parameters, multiply-accumulates, bytes; and what it would cost after a cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Protocol

import msgspec
import numpy as np

from graphprune.calls import calls, node_name, rule_of, zero_points
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.rules import Call, Dim, Operand, Rule


class Cost(msgspec.Struct, frozen=True):
    """Size of a model.

    Attributes:
        parameters: elements of all floating-point constants and quantised weights, but single numbers, which are part
            of a formula.
        macs: multiply-accumulates of convolutions and matrix products at the analysis input shapes; a body counts once.
        bytes: size of all constants in memory.
        channels: units that groups still hold; 0 where not counted.
        latency: milliseconds of one run as predicted from timed layers; 0 where none were timed.
    """

    parameters: int
    macs: int
    bytes: int
    channels: int = 0
    latency: float = 0.0


class Product(msgspec.Struct, frozen=True):
    """One node that multiplies and accumulates, itself or in its bodies.

    Attributes:
        macs: multiply-accumulates at the analysis input shapes.
        channels: outputs of its weight; ``None`` where it multiplies two computed tensors.
    """

    macs: int
    channels: int | None


class Times(Protocol):
    """What predicts how long a model takes."""

    def predict(self, macs: Mapping[str, int], channels: float) -> float:
        """Milliseconds of one run.

        Args:
            macs: multiply-accumulates of every product, by the name of its node.
            channels: the share of all units that are left.
        """
        ...


class CostModel:
    """Costs of one model as a function of how many units each group keeps; no cut is made to evaluate it.

    With ``times`` of its layers they include the latency.
    """

    def __init__(self, model: Model, groups: tuple[Group, ...] = (), times: Times | None = None) -> None:
        self._times = times
        self._constants = {
            name: (tuple(int(n) for n in c.shape), np.dtype(c.dtype).itemsize if c.dtype != object else 1)
            for name, c in model.constants.items()
            if not isinstance(c.dtype, int)
        }
        self._weights = {n for n, c in model.constants.items() if getattr(c.dtype, "kind", "") == "f" and c.shape}
        self._weights |= zero_points(model).keys()
        self._products: list[tuple[int, Call, Rule]] = []
        position = 0  # of the node of the main graph that a node is, or lies in
        for node, call in calls(model, model.nodes):
            rule = rule_of(node)
            if call is not None and rule is not None and rule.macs(call):
                self._products.append((position, call, rule))
            position += position < len(model.graph.nodes) and node is model.graph.nodes[position]
        self._names = [node_name(model.graph.nodes[position]) for position, *_ in self._products]
        self._groups = groups
        self._per_unit = [{dim: group.per_unit(dim) for dim in group.labels} for group in groups]

    def at(self, removed: Mapping[str, int] | None = None) -> Cost:
        """The cost once ``removed[group name]`` units of each group are gone."""
        removed = removed or {}
        less = self._less(removed)
        parameters = size = 0
        for name, (old, itemsize) in self._constants.items():
            count = prod(_shape(name, old, less))
            size += count * itemsize
            parameters += count if name in self._weights else 0
        macs = [rule.macs(_shrunk(call, less)) for _, call, rule in self._products]
        channels = sum(g.size - removed.get(g.name, 0) for g in self._groups)
        latency = 0.0
        if self._times is not None:
            units = sum(g.size for g in self._groups)
            by_name: dict[str, int] = {}
            for name, count in zip(self._names, macs, strict=True):
                by_name[name] = by_name.get(name, 0) + count
            latency = self._times.predict(by_name, channels / max(units, 1))
        return Cost(parameters, sum(macs), size, channels, latency)

    def products(self, removed: Mapping[str, int] | None = None) -> dict[int, Product]:
        """The nodes that multiply, by position in the graph, once ``removed`` units of each group are gone."""
        less = self._less(removed or {})
        found: dict[int, Product] = {}
        for position, call, rule in self._products:
            at = _shrunk(call, less)
            layer = rule.layer(call)
            weight = next(
                (o for o in at.inputs if layer is not None and o is not None and o.name == layer.weight), None
            )
            axis = 1 if weight is not None and weight.rank > 2 else -1  # images have their channels second
            channels = at.y.shape[axis] if weight is not None else None
            more = found.get(position)  # of the same body
            found[position] = Product(rule.macs(at) + more.macs, None) if more else Product(rule.macs(at), channels)
        return found

    def _less(self, removed: Mapping[str, int]) -> dict[Dim, int]:
        """How many positions of each axis go with the units."""
        less: dict[Dim, int] = {}
        for group, per_unit in zip(self._groups, self._per_unit, strict=True):
            if count := removed.get(group.name, 0):
                for dim, positions in per_unit.items():
                    less[dim] = less.get(dim, 0) + count * positions
        return less


def _shape(name: str, old: tuple[int, ...], less: Mapping[Dim, int]) -> tuple[int, ...]:
    return tuple(n - less.get(Dim(name, axis), 0) for axis, n in enumerate(old)) if less else old


def _shrunk(call: Call, less: Mapping[Dim, int]) -> Call:
    if not less:
        return call

    def shrunk(operand: Operand | None) -> Operand | None:
        return operand and replace(operand, shape=_shape(operand.name, operand.shape, less))

    return replace(call, inputs=tuple(map(shrunk, call.inputs)), outputs=tuple(map(shrunk, call.outputs)))
