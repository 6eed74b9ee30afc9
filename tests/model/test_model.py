"""Reading and writing models: nothing of a file is lost."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphprune.errors import UsageError
from graphprune.groups import analyse
from graphprune.model import load, save
from graphprune.model.shapes import symbolic_axes
from graphprune.state import State
from tests.law import assert_law, net
from tests.model.files import SMALL, WEIGHTS, round_trip, runs_equal

# ----------------------------------------------------------------------------------------------------- round trips


def test_an_unchanged_model_is_written_as_it_was(small: ModelProto, tmp_path: Path) -> None:
    small.graph.node[0].name = "first"
    small.graph.node[0].doc_string = "what a convolution is"
    small.graph.node[1].metadata_props.add(key="traced", value="from here")
    small.doc_string, small.graph.doc_string = "a model", "a graph"
    small.producer_name, small.producer_version, small.domain, small.model_version = "me", "1.2", "org.me", 7
    small.metadata_props.add(key="author", value="me")
    small.graph.metadata_props.add(key="graph", value="yes")
    small.opset_import.add(domain="com.example", version=3)
    again = round_trip(small, tmp_path)
    assert again == small


def test_saving_is_deterministic(small: ModelProto, tmp_path: Path) -> None:
    save(load(small), tmp_path / "a.onnx")
    save(load(small), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_metadata_is_added_and_replaced(small: ModelProto, tmp_path: Path) -> None:
    small.metadata_props.add(key="kept", value="1")
    small.metadata_props.add(key="graphprune", value="old")
    save(load(small), tmp_path / "out.onnx", metadata={"graphprune": "new", "more": "2"})
    props = {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert props == {"kept": "1", "graphprune": "new", "more": "2"}


def test_the_source_is_not_changed(small: ModelProto) -> None:
    before = small.SerializeToString()
    model = load(small)
    analyse(model)
    model.proto()
    assert small.SerializeToString() == before


def test_symbolic_and_open_dimensions(tmp_path: Path) -> None:
    proto = net(SMALL, inputs="float[N,3,H,8] x", **WEIGHTS)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[3].Clear()
    assert round_trip(proto, tmp_path).graph.input == proto.graph.input
    assert symbolic_axes(load(proto).inputs["x"]) == {0, 2, 3}
    assert load(proto).input_shapes == {"x": (1, 3, 224, 224)}
    assert load(proto, dim_params={"N": 2, "H": 16}).input_shapes == {"x": (2, 3, 16, 224)}
    assert load(proto, input_shapes={"x": (5, 3, 9, 11)}).input_shapes == {"x": (5, 3, 9, 11)}


@pytest.mark.parametrize("size", [-1, 0])
def test_sizes_written_as_minus_one_or_zero_are_open(size: int) -> None:
    proto = net(SMALL, **WEIGHTS)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = size
    model = load(proto)
    assert symbolic_axes(model.inputs["x"]) == {0}
    assert model.input_shapes == {"x": (1, 3, 8, 8)}
    assert model.shapes["y"] == (1, 4, 6, 6)
    assert model.symbolic_shapes["y"][1:] == (4, 6, 6)
    assert not isinstance(model.symbolic_shapes["y"][0], int)
    assert_law(model)


@pytest.mark.parametrize("declared", [[1, 4, 6], [1, 4, 7, 7], []], ids=["rank", "sizes", "no axes"])
def test_what_an_output_is_declared_as_decides_nothing(declared: list[int]) -> None:
    """Exporters are wrong about it now and then, and runtimes do not mind."""
    proto = net(SMALL, **WEIGHTS)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, declared))
    model = load(proto)
    assert model.shapes["y"] == model.symbolic_shapes["y"] == (1, 4, 6, 6)
    assert_law(model)


def test_question_marks_name_nothing() -> None:
    """Two sizes called "?" need not be equal."""
    proto = net(SMALL, inputs="float[N,3,H,W] x", **WEIGHTS)
    for axis in (0, 2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    model = load(proto)
    assert model.input_shapes == {"x": (1, 3, 224, 224)}
    assert load(proto, input_shapes={"x": (2, 3, 9, 8)}).shapes["t"] == (2, 6, 7, 6)
    assert model.symbolic_shapes["x"] == (None, 3, None, None)
    with pytest.raises(UsageError, match="no symbolic dimension"):
        load(proto, dim_params={"?": 3})


def test_one_symbol_is_one_size() -> None:
    proto = net("y = Add(x, z)", inputs="float[N,S] x, float[N,S] z")
    assert load(proto, input_shapes={"x": (3, 7)}).input_shapes == {"x": (3, 7), "z": (3, 7)}


def test_what_varies_with_an_open_dimension() -> None:
    proto = net("t = Conv(x, a)\nf = Flatten<axis=0>(t)\ny = Relu(f)", inputs="float[N,3,8,8] x", a=(6, 3, 1, 1))
    model = load(proto)
    assert {("x", 0), ("t", 0), ("f", 1)} <= model.varying
    assert ("t", 1) not in model.varying


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    inputs = "float[1,3,8,8] x, float[1,3,8,8] w, float[1,3,8,8] k"
    proto = net("y = Add(k, x)\nz = Mul(w, y)\nq = Relu(z)", inputs=inputs, outputs="q y z")
    again = round_trip(proto, tmp_path)
    assert [i.name for i in again.graph.input] == ["x", "w", "k"]
    assert [o.name for o in again.graph.output] == ["q", "y", "z"]
    runs_equal(proto, again)


def test_inferred_shapes_follow_the_model(tmp_path: Path) -> None:
    proto = onnx.shape_inference.infer_shapes(net(SMALL, **WEIGHTS))
    state = State(load(proto))
    assert {v.name for v in round_trip(proto, tmp_path).graph.value_info} == {"t", "u"}
    from graphprune.cut import cut, gone

    group = state.groups[0]
    save(cut(state.model, gone(state.groups, {group.name: np.array([0, 2])})), tmp_path / "cut.onnx")
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in onnx.load(tmp_path / "cut.onnx").graph.value_info
    }
    assert shapes == {"t": [1, 4, 6, 6], "u": [1, 4, 6, 6]}


@pytest.mark.parametrize(
    "value",
    [
        {"value": numpy_helper.from_array(np.ones((6, 1, 1), np.float32))},
        {"value_float": 2.5},
        {"value_floats": [1.0] * 8},
    ],
    ids=lambda value: next(iter(value)),
)
def test_weights_in_constant_nodes(value: dict[str, object], tmp_path: Path) -> None:
    proto = net("t = Conv(x, a)\nu = Mul(t, k)\ny = Conv(u, b)", k=(1,), a=(6, 3, 1, 1), b=(4, 6, 1, 1))
    del proto.graph.initializer[0]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], **value))
    model = load(proto)
    assert [n.op for n in model.graph.nodes] == ["Conv", "Mul", "Conv"]
    assert len(analyse(model).groups) == 1
    assert_law(model)
    runs_equal(proto, round_trip(proto, tmp_path))


@pytest.mark.parametrize("value", [{"value_int": 2}, {"value_ints": [2]}], ids=["value_int", "value_ints"])
def test_whole_numbers_in_constant_nodes(value: dict[str, object], tmp_path: Path) -> None:
    proto = net("u = Gather<axis=1>(x, k)\ny = Relu(u)", k=np.array(2))
    del proto.graph.initializer[0]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], **value))
    again = round_trip(proto, tmp_path)
    assert again.graph.initializer[0].data_type == TensorProto.INT64
    assert list(again.graph.initializer[0].dims) == ([] if "value_int" in value else [1])


def test_opset_9_with_initializers_listed_as_inputs(tmp_path: Path) -> None:
    proto = net(SMALL, opset=9, **WEIGHTS)
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    model = load(proto)
    assert list(model.inputs) == ["x"]
    assert [g.name for g in analyse(model).groups] == ["a[0]"]
    assert_law(model)
    again = round_trip(proto, tmp_path)
    assert [i.name for i in again.graph.input] == ["x"]
    assert again.ir_version >= 4
    runs_equal(proto, again)


def test_unnamed_nodes_and_optional_inputs(tmp_path: Path) -> None:
    proto = net("t = Clip(x, , high)\ny = Clip(t, low)", low=np.array(-1, np.float32), high=np.array(1, np.float32))
    again = round_trip(proto, tmp_path)
    assert [list(n.input) for n in again.graph.node] == [["x", "", "high"], ["t", "low"]]
    assert [n.name for n in again.graph.node] == ["", ""]


def test_an_initializer_can_be_an_output(tmp_path: Path) -> None:
    proto = net("y = Relu(x)", k=(3,))
    proto.graph.output.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [3]))
    runs_equal(proto, round_trip(proto, tmp_path))


def test_an_initializer_that_is_an_output_is_not_cut() -> None:
    proto = net("t = Conv(x, a)\ny = Conv(t, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1))
    proto.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [6, 3, 1, 1]))
    assert not analyse(load(proto)).groups


def test_an_input_can_be_an_output(tmp_path: Path) -> None:
    proto = net("y = Relu(x)")
    proto.graph.output.append(proto.graph.input[0])
    runs_equal(proto, round_trip(proto, tmp_path))


# ----------------------------------------------------------------------------------------------------- element types


@pytest.mark.parametrize("kind", ["bfloat16", "int4", "uint4", "float8_e4m3fn", "float4_e2m1fn", "int2"])
def test_small_types_survive_bit_by_bit(kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, -1 if "uint" not in kind else 1], [1, 0, 1]]).astype(getattr(ml_dtypes, kind))
    tensor = numpy_helper.from_array(values, "k")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", tensor.data_type, [2, 3])],
        [tensor],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    again = round_trip(proto, tmp_path)
    assert again.graph.initializer[0] == tensor
    assert not analyse(load(proto)).groups


def test_strings_survive(tmp_path: Path) -> None:
    tensor = helper.make_tensor("k", TensorProto.STRING, [2], [b"a", b"bc"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
        [tensor],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert round_trip(proto, tmp_path).graph.initializer[0] == tensor
    assert analyse(load(proto)).groups == ()


def test_a_bfloat16_weight_is_pinned_with_a_reason() -> None:
    proto = net("t = Conv(x, a)\ny = Conv(t, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1))
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for info in [*proto.graph.input, *proto.graph.output]:
        info.type.tensor_type.elem_type = TensorProto.BFLOAT16
    proto.opset_import[0].version = 22
    dependencies = analyse(load(proto))
    assert not dependencies.groups
    assert {str(p.dim): p.why for p in dependencies.pinned}["a[0]"] == "stored as bfloat16, which is not cut"


def test_nodes_that_no_output_needs_are_dropped() -> None:
    model = load(net("y = Relu(x)\nz = Sigmoid(x)\nq = Tanh(z)")).copy()
    assert [n.op for n in model.with_nodes(model.graph.nodes).graph.nodes] == ["Relu"]


def test_a_copy_is_independent(small: ModelProto) -> None:
    model = load(small)
    twin = model.copy()
    twin.graph.nodes[0].attrs["strides"] = [2, 2]
    twin.constants["a"].values = np.zeros((6, 3, 3, 3), np.float32)
    assert "strides" not in model.graph.nodes[0].attrs
    assert np.any(model.constants["a"].values)
