"""The one table of operator knowledge: what each operator couples, how it is repaired after a cut, what it costs.

To add an operator here, write its ties in the file of its domain and list it in that file's ``RULES``. Operators of the
default ONNX domain go by their name, others by ``domain.Name``. An operator that is not here pins all it touches.
Other packages add rules for operators of their own under the entry-point group ``graphprune.rules``; see
docs/add-an-operator.md.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from functools import cache

from graphprune.errors import UsageError
from graphprune.plugins import installed
from graphprune.rules import (
    attention,
    axiswise,
    control,
    convolution,
    elementwise,
    fused,
    indexing,
    linear,
    movement,
    normalization,
    quantized,
    recurrent,
    reduction,
    shaping,
    spatial,
)
from graphprune.rules.base import (
    Body,
    Call,
    Choice,
    Counting,
    Dim,
    Kept,
    Operand,
    Pin,
    Routing,
    Rule,
    Tie,
    Ties,
    never,
    tie,
)
from graphprune.rules.layer import Layer

RULES: dict[str, Rule] = {
    **attention.RULES,
    **axiswise.RULES,
    **control.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **fused.RULES,
    **indexing.RULES,
    **linear.RULES,
    **movement.RULES,
    **normalization.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **reduction.RULES,
    **shaping.RULES,
    **spatial.RULES,
}

ENTRY_POINTS = "graphprune.rules"


@cache
def known() -> Mapping[str, Rule]:
    """The whole table: ``RULES`` and what installed packages add.

    Raises:
        UsageError: a package's rule is for an operator that has one already, or is no rule.
    """
    added = installed(ENTRY_POINTS, "rule", frozenset(RULES))
    for name, rule in added.items():
        if not isinstance(rule, Rule):
            raise UsageError(
                f"the entry point for operator '{name}' is no Rule but {rule!r}", "see docs/add-an-operator.md"
            )
    return ChainMap(RULES, added)


__all__ = [
    "RULES",
    "Body",
    "Call",
    "Choice",
    "Counting",
    "Dim",
    "Kept",
    "Layer",
    "Operand",
    "Pin",
    "Routing",
    "Rule",
    "Tie",
    "Ties",
    "known",
    "never",
    "tie",
]
