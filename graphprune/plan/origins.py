"""Which positions of the original's initializers the units of a rewritten model stand for.

Passes before a cut fold initializers away: a BatchNormalization goes into its convolution, a transposed copy takes the
place of a matrix. A plan, and whoever applies it elsewhere, speaks of what the file holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calls import calls, operator, rule_of
from graphprune.groups import Group
from graphprune.model import Model
from graphprune.model.surgeon import is_standard
from graphprune.rules import Dim, Tie

# What is known of a position of the original: no more than that it is there; that it goes with units that need not go
# together; that it stays. From 1 on, units count through all groups.
_UNKNOWN, _TORN, _STAYS = -2, -1, 0


def traced(original: Model, current: Model, groups: Iterable[Group]) -> tuple[Group, ...]:
    """The groups of ``current``, with labels for those axes of ``original`` that ``current`` has no more.

    A tensor of both models is the same in both. From there, ties of the original's operators lead to the others. A copy
    that an Identity makes has positions of its own, as it has once constants are folded; an initializer whose readers
    disagree has none.
    """
    groups = list(groups)
    first = np.cumsum([1, *(group.size for group in groups)])
    shapes = current.shapes
    at: dict[Dim, np.ndarray] = {}
    for name, shape in original.shapes.items():
        known = shapes.get(name) == shape
        for axis, size in enumerate(shape):
            if size is not None:
                at[Dim(name, axis)] = np.full(size, _STAYS if known else _UNKNOWN, np.int64)
    for group, start in zip(groups, first, strict=False):
        for dim, labels in group.labels.items():
            if dim in at and shapes.get(dim.tensor) == original.shapes.get(dim.tensor):
                at[dim][labels >= 0] = start + labels[labels >= 0]
    lost = {name for name, shape in original.shapes.items() if shapes.get(name) != shape}
    _spread(at, lost, list(_ties(original, lost)))
    extended = []
    for group, start in zip(groups, first, strict=False):
        found = {}
        for name in lost:
            for axis in range(len(original.shapes[name])):
                unit = at.get(Dim(name, axis), np.empty(0)) - start
                mine = (unit >= 0) & (unit < group.size)
                if mine.any():
                    found[Dim(name, axis)] = np.where(mine, unit, -1)
        extended.append(replace(group, labels={**group.labels, **found}))
    return tuple(extended)


def _ties(original: Model, lost: set[str]) -> Iterable[Tie]:
    for node, call in calls(original):
        rule = rule_of(node)
        if rule and call and operator(node) != "Identity" and any(o.name in lost for o in call.present):
            yield from (said for said in rule.ties(call) if isinstance(said, Tie))


def _spread(at: dict[Dim, np.ndarray], lost: set[str], ties: list[Tie]) -> None:
    """Let lost tensors learn from what they are tied to, until nothing is new."""
    changed = True
    while changed:
        changed = False
        for tie in ties:
            for here, there, to, by in ((tie.a, tie.b, tie.at_a, tie.at_b), (tie.b, tie.a, tie.at_b, tie.at_a)):
                if here.tensor not in lost:
                    continue
                old, heard = at[here][to], at[there][by]
                new = np.where(old == _UNKNOWN, heard, np.where((heard == _UNKNOWN) | (heard == old), old, _TORN))
                if (new != old).any():
                    at[here][to] = new
                    changed = True


def weights(original: Model) -> list[str]:
    """The names of an original's weights, in graph order: its initializers, and their copies by Identity nodes."""
    found = dict.fromkeys(original.constants)
    for node in original.graph.nodes:
        if node.op == "Identity" and is_standard(node) and isinstance(node.inputs[0], gs.Constant):
            found[node.outputs[0].name] = None
    return list(found)
