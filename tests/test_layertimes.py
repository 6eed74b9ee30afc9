"""Timed layers: interpolation by hand, and onnxruntime's names followed back to the nodes that multiply."""

from __future__ import annotations

import pytest

from graphprune.cost import CostModel
from graphprune.layertimes import layer_times, onnxruntime_profile
from graphprune.model import Model, load
from models import find
from tests.law import net

BODY = "t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)"


def of(width: int) -> Model:
    model = load(net(BODY, a=(width, 3, 1, 1), b=(2, width, 1, 1)))
    for k, node in enumerate(model.graph.nodes):
        node.name = f"node{k}"
    return model


def profile(model: Model) -> tuple[float, dict[str, float]]:
    """2 ms and 1 ms per 1,000 MACs for the first layer, 5 ms for the second, the rest 1 ms."""
    macs = CostModel(model).products()[0].macs
    first = 2 + macs / 1000
    return first + 5 + 1, {"node0": first, "node2": 5.0}


def test_interpolation() -> None:
    full, half = of(16), of(8)
    times = layer_times([(1.0, full), (0.5, half)], profile)
    macs = CostModel(full).products()[0].macs
    for share in (1.0, 0.75, 0.5, 0.1):
        found = times.predict({"node0": round(share * macs), "node2": 1}, share)
        assert found == pytest.approx(2 + share * macs / 1000 + 5 + 1, rel=1e-3)


def test_cost_models_predict_latency() -> None:
    full, half = of(16), of(8)
    times = layer_times([(1.0, full), (0.5, half)], profile)
    assert CostModel(full, (), times).at().latency == pytest.approx(profile(full)[0])
    assert CostModel(full).at().latency == 0


@pytest.mark.parametrize("name", ["fashion_resnet20", "fashion_vit"])
def test_onnxruntime_times_every_product(name: str) -> None:
    model = load(find(name).path)
    total, nodes = onnxruntime_profile(model)
    products = {model.graph.nodes[k].name for k in CostModel(model).products()}
    assert len(nodes.keys() & products) >= 0.9 * len(products)
    assert 0 < sum(nodes.values()) <= total * (1 + 1e-9)
