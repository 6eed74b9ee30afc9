"""The one table of operator knowledge: what each operator couples, how it is repaired after a cut, what it costs.

To add an operator, write its ties in the file of its domain and list it in that file's ``RULES``. Operators of the
default ONNX domain go by their name, others by ``domain.Name``. An operator that is not here pins all it touches.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphprune.rules import (
    axiswise,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    movement,
    normalization,
    recurrent,
    reduction,
    spatial,
)
from graphprune.rules.base import Call, Choice, Dim, Kept, Operand, Pin, Rule, Tie, Ties
from graphprune.rules.layer import Layer

RULES: Mapping[str, Rule] = {
    **axiswise.RULES,
    **control.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **indexing.RULES,
    **linear.RULES,
    **movement.RULES,
    **normalization.RULES,
    **recurrent.RULES,
    **reduction.RULES,
    **spatial.RULES,
}

__all__ = ["RULES", "Call", "Choice", "Dim", "Kept", "Layer", "Operand", "Pin", "Rule", "Tie", "Ties"]
