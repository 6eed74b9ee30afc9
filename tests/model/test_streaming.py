"""Walking through a model: values at the stops, and nodes ahead that change there."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphprune.model import Model, load
from graphprune.model.streaming import walk
from graphprune.proof import Runner
from tests.law import net

BODY = "t = MatMul(x, a) u = Relu(t) v = MatMul(u, b) w = Relu(v) z = MatMul(w, c) y = Add(z, t)"


@pytest.fixture
def model() -> Model:
    return load(net(BODY, inputs="float[N,8] x", a=(8, 9), b=(9, 300), c=(300, 9)), dim_params={"N": 3})


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((n, 8)).astype(np.float32)} for n in (3, 5)]


def test_a_walk_sees_what_a_run_computes(model: Model) -> None:
    stops = [("x",), ("u", "t"), ("u",), ("y", "w")]
    expected = [Runner(model, also=["t", "u", "w"])(one) | one for one in batches()]
    for names, seen in zip(stops, walk(model, batches(), stops), strict=True):
        assert [values.keys() for values in seen] == [set(names)] * 2
        for values, right in zip(seen, expected, strict=True):
            for name, value in values.items():
                np.testing.assert_allclose(value, right[name], rtol=1e-5, atol=1e-6)


def test_nodes_ahead_may_change_at_a_stop(model: Model) -> None:
    copy = model.copy()
    found = []
    for seen in walk(copy, batches(), [("u",), ("w",), ("y",)]):
        found.append(seen)
        if len(found) == 1:
            node = next(n for n in copy.graph.nodes if n.outputs[0].name == "v")
            node.inputs[1] = gs.Constant("b", np.zeros((9, 300), np.float32))
    assert found[0][0]["u"].any()
    assert not found[1][0]["w"].any()
    np.testing.assert_array_equal(found[2][1]["y"], Runner(model, also=["t"])(batches()[1])["t"])
