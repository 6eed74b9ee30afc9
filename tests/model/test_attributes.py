"""What nodes hold is not lost: bodies, local functions, empty lists, rare kinds of attributes; nor sparse weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.model.surgeon import opaque
from tests.law import assert_law, net
from tests.model.files import round_trip, runs_equal, text

IF = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] x, bool[1] p) => (float[1,6,8,8] y, float[1,4,8,8] z) {
  t = Conv(x, a)
  y = If (p) <
    then_branch = then () => (float[1,6,8,8] yes) { yes = Add(t, k) },
    else_branch = other () => (float[1,6,8,8] no) { no = Mul(t, k) }
  >
  u = Conv(x, d)
  z = Conv(u, b)
}"""
LOOP = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] x) => (float[1,6,8,8] y, float[1,4,8,8] z) {
  t = Conv(x, a)
  y = Loop (n, , t) <
    body = body (int64 i, bool going, float[1,6,8,8] s) => (bool on, float[1,6,8,8] r) {
      on = Identity(going)
      q = Add(s, k)
      r = Mul(q, t)
    }
  >
  u = Conv(x, d)
  z = Conv(u, b)
}"""
SCAN = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] x) => (float[1,6,8,8] y, float[1,4,8,8] z) {
  t = Conv(x, a)
  y = Scan <num_scan_inputs = 1,
    body = body (float[6,8,8] s) => (float[6,8,8] r) { r = Add(s, k) }
  > (t)
  u = Conv(x, d)
  z = Conv(u, b)
}"""


@pytest.mark.parametrize(("source", "op"), [(IF, "If"), (LOOP, "Loop"), (SCAN, "Scan")], ids=["If", "Loop", "Scan"])
def test_what_a_body_makes_of_an_output_stays(source: str, op: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"a": (6, 3, 1, 1), "k": (6, 1, 1), "d": (5, 3, 1, 1), "b": (4, 5, 1, 1)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in weights.items()}
    if op == "Loop":
        values["n"] = np.array(3, np.int64)
    proto = text(source, **values)
    model = load(proto)
    groups = analyse(model).groups
    assert [g.name for g in groups] == ["d[0]"], "what a body makes of the output stays"
    assert_law(model)
    assert any(opaque(node) for node in model.graph.nodes)
    again = round_trip(proto, tmp_path)
    assert [list(n.input) for n in again.graph.node] == [list(n.input) for n in proto.graph.node]
    runs_equal(proto, again)


NESTED = """<ir_version: 8, opset_import: ["": 17]>
g (float[2,3] x, bool[1] p) => (float[2,3] y) {
  t = Mul(x, k)
  s = Relu(x)
  y = If (p) <
    then_branch = outer () => (float[2,3] yes) {
      yes = If (p) <
        then_branch = inner () => (float[2,3] deep) { deep = Add(t, h) },
        else_branch = inner2 () => (float[2,3] deep2) { deep2 = Identity(s) }
      >
    },
    else_branch = other () => (float[2,3] no) { no = Identity(t) }
  >
}"""


def test_values_captured_two_bodies_deep(tmp_path: Path) -> None:
    proto = text(NESTED, k=np.full((2, 3), 2, np.float32), h=np.full((3,), 3, np.float32))
    model = load(proto)
    node = next(n for n in model.graph.nodes if n.op == "If")
    assert {t.name for t in node.inputs} == {"p", "t", "h", "s"}
    runs_equal(proto, round_trip(proto, tmp_path))


def test_a_constant_node_read_by_a_body_only(tmp_path: Path) -> None:
    source = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2,3] x, bool[1] p) => (float[2,3] y) {
      k = Constant<value = float[1] {2.5}>()
      y = If (p) <
        then_branch = a () => (float[2,3] yes) { yes = Add(x, k) },
        else_branch = b () => (float[2,3] no) { no = Mul(x, k) }
      >
    }"""
    proto = text(source)
    runs_equal(proto, round_trip(proto, tmp_path))


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    source = """<ir_version: 8, opset_import: ["": 17, "here": 1]>
    g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
      t = Conv(x, a)
      u = here.twice(t)
      y = Conv(u, b)
    }
    <domain: "here", opset_import: ["": 17]>
    twice (v) => (w) { s = Add(v, v)
      w = Relu(s) }"""
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 3, 1, 1), "b": (4, 6, 1, 1)}
    proto = text(source, **{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
    model = load(proto)
    assert [n.op for n in model.graph.nodes] == ["Conv", "Add", "Relu", "Conv"]
    assert [g.size for g in analyse(model).groups] == [6]
    runs_equal(proto, round_trip(proto, tmp_path))


def test_empty_lists_survive(tmp_path: Path) -> None:
    proto = net("y = Relu(x)")
    proto.opset_import.add(domain="custom", version=1)
    node = proto.graph.node.add(op_type="Odd", domain="custom", input=["y"], output=["o"])
    node.attribute.append(AttributeProto(name="none", type=AttributeProto.INTS))
    node.attribute.append(AttributeProto(name="nothing", type=AttributeProto.STRINGS))
    node.attribute.append(helper.make_attribute("some", [1, 2]))
    proto.graph.output.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 3, 8, 8]))
    again = round_trip(proto, tmp_path)
    assert sorted(a.name for a in again.graph.node[1].attribute) == ["none", "nothing", "some"]
    assert {a.name: a for a in again.graph.node[1].attribute} == {a.name: a for a in node.attribute}


def test_rare_attribute_kinds_survive(tmp_path: Path) -> None:
    proto = net("y = Relu(x)")
    proto.opset_import.add(domain="custom", version=1)
    tensors = [numpy_helper.from_array(np.arange(n, dtype=np.float32), f"t{n}") for n in (1, 2)]
    body = onnx.parser.parse_graph("body (float[2] i) => (float[2] o) { o = Relu(i) }")
    node = helper.make_node(
        "Odd",
        ["y"],
        ["o"],
        domain="custom",
        tensor=tensors[0],
        tensors=tensors,
        graph=body,
        graphs=[body, body],
        type=helper.make_tensor_type_proto(TensorProto.FLOAT, [2]),
        types=[helper.make_tensor_type_proto(TensorProto.INT8, None)],
        sparse=helper.make_sparse_tensor(tensors[0], numpy_helper.from_array(np.array([3]), ""), [5]),
    )
    proto.graph.node.append(node)
    proto.graph.output.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 3, 8, 8]))
    again = round_trip(proto, tmp_path)
    assert {a.name: a for a in again.graph.node[1].attribute} == {a.name: a for a in node.attribute}


def test_sparse_initializers_survive_and_stay(tmp_path: Path) -> None:
    proto = net("t = MatMul(x, a)\ny = MatMul(t, b)", inputs="float[5,3] x", a=(3, 6), b=(6, 4))
    values = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "a")
    indices = numpy_helper.from_array(np.array([0, 5, 9], np.int64), "")
    del proto.graph.initializer[0]
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 6]))
    model = load(proto)
    dependencies = analyse(model)
    assert not dependencies.groups
    assert any(p.why == "stored as a sparse tensor" for p in dependencies.pinned)
    runs_equal(proto, round_trip(proto, tmp_path))
