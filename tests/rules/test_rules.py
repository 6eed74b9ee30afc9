"""The operator table as a whole."""

from __future__ import annotations

import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state

from graphprune.cost import CostModel
from graphprune.model import load
from graphprune.rules import RULES, control
from tests.law import net
from tests.tiny_nets import CASES, DOMAINS

# What onnxruntime adds.
FUSED = {f"{schema.domain}.{schema.name}" for schema in onnxruntime_pybind11_state.get_all_operator_schema()}
# Operators whose rule lets nothing through, beside those that say why in ``control``.
PINNING = {"LRN"}
# Operators that onnxruntime has no kernel for, so that no net can be run.
NOT_RUN = {"CausalConvWithState", "SwiGLU", "TensorScatter", "com.microsoft.BiasAdd"}


def test_every_operator_has_a_tiny_net() -> None:
    cut = {op for case in CASES if case.groups for op in case.operators}
    assert set(RULES) - cut - control.PINNING == PINNING | NOT_RUN


def test_every_operator_of_onnx_is_in_the_table_or_known_to_be_missing() -> None:
    """An operator that a new version of onnx brings shows here; until it has a rule it pins."""
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert standard - set(RULES) == MISSING


# No rule yet; ``Constant`` is no node by the time rules are asked.
MISSING = {
    "Constant",
    "LinearAttention",
}


def test_case_names_are_unique() -> None:
    for module in DOMAINS:
        names = [case.name for case in module.CASES]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("operator", sorted(RULES))
def test_operators_exist(operator: str) -> None:
    """A typing error in the table would be an operator that no model has."""
    assert onnx.defs.has(operator) or operator in FUSED


def test_what_multiplies_nothing_costs_nothing() -> None:
    assert CostModel(load(net("t = Relu(x)\nu = MaxPool<kernel_shape=[2,2]>(t)\ny = Flatten(u)"))).at().macs == 0
