"""Bodies of If, Loop and Scan: names of their own, weights taken out, sizes known, written back after a cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from graphprune import api
from graphprune.groups import analyse
from graphprune.model import load, save
from graphprune.proof import Runner
from tests.law import brief

IMAGE = ["N", 6, 4, 4]


def branch(name: str, seed: int, *, as_nodes: bool) -> GraphProto:
    """Two convolutions with weights of its own, as initializers or Constant nodes; all names are as in any other."""
    rng = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) / 10).astype(np.float32), name)
        for name, shape in (("w", (8, 6, 5, 5)), ("v", (6, 8, 5, 5)))
    ]
    nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in weights] if as_nodes else []
    nodes += [
        helper.make_node("Conv", ["t", "w"], ["m"], pads=[2] * 4),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["o"], pads=[2] * 4),
    ]
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, IMAGE)
    return helper.make_graph(nodes, name, [], [output], [] if as_nodes else weights)


def branching() -> ModelProto:
    rng = np.random.default_rng(0)
    weights = {"a": (6, 3, 1, 1), "b": (2, 6, 1, 1)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["t"]),
            helper.make_node(
                "If",
                ["p"],
                ["h"],
                then_branch=branch("then", 1, as_nodes=True),
                else_branch=branch("otherwise", 2, as_nodes=False),
            ),
            helper.make_node("Conv", ["h", "b"], ["y"]),
        ],
        "branching",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4]),
            helper.make_tensor_value_info("p", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs(model: ModelProto, choice: bool) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 4)).astype(np.float32)
    return Runner(load(model, dim_params={"N": 2}))({"x": x, "p": np.array(choice)})["y"]


def test_weights_and_names() -> None:
    model = load(branching())
    assert set(model.constants) == {"a", "w", "v", "w:1", "v:1", "b"}
    assert [brief(g) for g in analyse(model).groups] == [
        "6 a[0] w[1] w:1[1]",
        "8 w[0] v[1]",
        "6 v[0] v:1[0] b[1]",
        "8 w:1[0] v:1[1]",
    ]
    assert model.shapes["m"] == model.shapes["m:1"] == (1, 8, 4, 4)
    assert {("m", 0), ("o:1", 0), ("t", 0)} <= model.varying
    assert str(model.dtypes["r"]) == "float32"


def test_what_is_loaded_computes_the_same(tmp_path: Path) -> None:
    proto = branching()
    save(load(proto), tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert not [
        body.initializer for node in again.graph.node for a in node.attribute for body in [a.g] if a.g.initializer
    ]
    for choice in (True, False):
        np.testing.assert_array_equal(outputs(proto, choice), outputs(again, choice))


def test_both_branches_are_cut(tmp_path: Path) -> None:
    result = api.prune(branching(), ratio=0.5, round_to=1, preset="magnitude")
    result.save(tmp_path / "small.onnx")
    small = load(tmp_path / "small.onnx")
    assert {n: tuple(c.shape) for n, c in small.constants.items()} == {
        "a": (3, 3, 1, 1),
        "w": (4, 3, 5, 5),
        "v": (3, 4, 5, 5),
        "w:1": (4, 3, 5, 5),
        "v:1": (3, 4, 5, 5),
        "b": (2, 3, 1, 1),
    }
    assert small.shapes["m:1"] == (1, 4, 4, 4)


def test_a_weight_handed_out() -> None:
    """A branch may return a constant, which has to be made inside it."""
    row = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 4])
    values = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(1, 4), "o")
    given = helper.make_graph([], "given", [], [row], [values])
    made = helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], "made", [], [row])
    graph = helper.make_graph(
        [helper.make_node("If", ["p"], ["y"], then_branch=given, else_branch=made)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
            helper.make_tensor_value_info("p", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = load(proto)
    assert list(model.constants) == ["o:1:weight"]
    x = np.ones((1, 4), np.float32)
    for choice, expected in ((True, [[0, 1, 2, 3]]), (False, [[-1, -1, -1, -1]])):
        np.testing.assert_array_equal(Runner(model)({"x": x, "p": np.array(choice)})["y"], expected)
