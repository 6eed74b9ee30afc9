"""The operator table as a whole."""

from __future__ import annotations

import onnx
import pytest

from graphprune.rules import RULES
from tests.rules import (
    test_convolution,
    test_elementwise,
    test_linear,
    test_movement,
    test_normalization,
    test_recurrent,
    test_reduction,
)

DOMAINS = [
    test_convolution,
    test_elementwise,
    test_linear,
    test_movement,
    test_normalization,
    test_recurrent,
    test_reduction,
]


def test_every_operator_has_a_tiny_net() -> None:
    exercised = {op for module in DOMAINS for case in module.CASES if case.groups for op in case.operators}
    pinning = {op for module in DOMAINS for case in module.CASES for op in case.operators}
    assert set(RULES) - exercised <= {"LRN"}, "no net cuts through these"
    assert set(RULES) <= pinning


def test_case_names_are_unique() -> None:
    for module in DOMAINS:
        names = [case.name for case in module.CASES]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("operator", sorted(RULES))
def test_operators_exist(operator: str) -> None:
    """A typing error in the table would be an operator that no model has."""
    assert onnx.defs.has(operator)
