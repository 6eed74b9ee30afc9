"""What flows through a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from graphprune.cut import Drop
from graphprune.groups import Dependencies, Group, analyse
from graphprune.model import Model

_analyses: WeakKeyDictionary[Model, dict[bool, Dependencies]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class State:
    """The model and what the passes so far have found out about it. Nothing in it is ever changed in place.

    Attributes:
        model: the current model.
        scores: importance of each unit, by group name; float64 [units], small is expendable.
        drop: units chosen for removal, by group name; consumed by ``cut``.
        layers: residual branches chosen for removal, by the tensors they are added into; consumed by ``remove_layers``.
        include: regular expressions; if any, only groups with an axis or tensor name that matches one are pruned.
        exclude: regular expressions; groups with an axis or tensor name that matches one are left alone.
        inexact: whether groups that can be cut but not proved may be pruned too.
        data: anything a pass leaves for later ones, by a name of its choice; ``notes``, texts, go into the report.
    """

    model: Model
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    drop: Drop = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    inexact: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dependencies(self) -> Dependencies:
        """The analysis of the current model, made once per model."""
        known = _analyses.setdefault(self.model, {})
        if self.inexact not in known:
            known[self.inexact] = analyse(self.model, inexact=self.inexact)
        return known[self.inexact]

    @cached_property
    def prunable(self) -> tuple[Group, ...]:
        """All groups found, less what the user left out."""
        return tuple(g for g in self.dependencies.groups if self.selects(g))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that may be pruned by what zeroing their units does: without those of experts."""
        return tuple(g for g in self.prunable if not g.routed)

    @cached_property
    def experts(self) -> tuple[Group, ...]:
        """The groups of units among which something is shared out or chosen, so that what goes leaves its share."""
        return tuple(g for g in self.prunable if g.routed)

    def selects(self, group: Group) -> bool:
        """Whether ``include`` and ``exclude`` let a group be pruned."""
        return self.selects_names([str(dim) for dim in group.labels])

    def selects_names(self, names: Sequence[str]) -> bool:
        """Whether ``include`` and ``exclude`` let something with these names be pruned."""

        def matches(patterns: tuple[str, ...]) -> bool:
            return any(re.search(pattern, name) for pattern in patterns for name in names)

        return (not self.include or matches(self.include)) and not matches(self.exclude)


class Pass(Protocol):
    """A step of a pipeline: a frozen dataclass whose fields are its options, called on a state."""

    def __call__(self, state: State) -> State:
        """The state after this step."""
        ...
