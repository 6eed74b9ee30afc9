"""Whole graphs end to end, and what the artefact folder holds."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphprune import runtime
from graphprune.compiler import build, compile_model
from graphprune.compiler.manifest import Manifest
from graphprune.errors import CompileError
from tests.compiler.oracle import check, kinds, model

OPERATORS = {
    "activations": "a = Sigmoid (x) b = Tanh (a) c = Erf (b) d = Exp (c) e = LeakyRelu (d) y = Elu (e)",
    "hard": "a = HardSwish (x) b = HardSigmoid (a) y = Add (a, b)",
    "softmax": "y = Softmax <axis = -1> (x)",
    "softmax over channels": "y = Softmax <axis = 1> (x)",
    "reductions": "a = ReduceMean <axes = [2, 3]> (x) b = ReduceMax <axes = [1]> (x) m = Max (x, a) y = Mul (m, b)",
    "global": "a = GlobalAveragePool (x) b = GlobalMaxPool (x) y = Add (a, b)",
    "movement": "t = Transpose <perm = [0, 2, 3, 1]> (x) y = Concat <axis = 3> (t, t)",
    "resize": 's = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () y = Resize <mode = "nearest"> (x, , s)',
    "resize linear": 's = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () y = Resize <mode = "linear"> (x, , s)',
    "lrn": "y = LRN <size = 3> (x)",
    "instance norm": "y = InstanceNormalization (x, ones, ones)",
    "layer norm": "y = LayerNormalization (x, gain)",
    "split and slice": "a, b = Split <axis = 1> (x) s = Sub (a, b) y = Slice (s, from, to, axes)",
    "compare": "z = Constant <value_float = 0.0> () p = Greater (x, z) n = Neg (x) y = Where (p, x, n)",
    "transposed convolution": "y = ConvTranspose <strides = [2, 2]> (x, w)",
    "1-d convolution": "f = Flatten <axis = 2> (x) y = Conv <pads = [1, 1]> (f, w1)",
}


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case: str, tmp_path: Path) -> None:
    proto = model(
        f"g (float[1,4,6,6] x) => (float y) {{ {OPERATORS[case]} }}",
        ones=np.ones(4, np.float32),
        gain=np.linspace(0.5, 1.5, 6, dtype=np.float32),
        w=(4, 5, 2, 2),
        w1=(3, 4, 3),
        **{"from": np.array([1]), "to": np.array([5]), "axes": np.array([2])},
    )
    if case == "1-d convolution":
        proto.graph.node[0].CopyFrom(helper.make_node("Reshape", ["x", "flat"], ["f"]))
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 4, 36]), "flat"))
    used = {name for node in proto.graph.node for name in node.input}
    kept = [i for i in proto.graph.initializer if i.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    check(onnx.shape_inference.infer_shapes(proto, data_prop=True), tmp_path)


def test_gelu_is_arithmetic_alone(tmp_path: Path) -> None:
    proto = model("g (float[1,4,6,6] x) => (float[1,4,6,6] y) { y = Gelu (x) }")
    proto.ir_version, proto.opset_import[0].version = 9, 20
    (kernel,) = check(proto, tmp_path).manifest.kernels
    assert kernel.name == "_gelu"  # TVM's own, which calls erf of the C library for each value, is `gelu`


def test_integers_and_booleans_go_in_and_out(tmp_path: Path) -> None:
    proto = model(
        """g (int64[2,5] ids, bool[2,5] mask, float[7,3] table) => (float[2,5,3] y, int64[2,5] twice, bool[2,5] not) {
            y = Gather (table, ids)
            twice = Add (ids, ids)
            not = Not (mask)
        }"""
    )
    artefact = check(proto, tmp_path)
    assert [v.dtype for v in artefact.manifest.inputs] == ["int64", "bool", "float32"]
    assert [v.dtype for v in artefact.manifest.outputs] == ["float32", "int64", "bool"]


def test_an_index_out_of_range_reads_no_foreign_memory(tmp_path: Path) -> None:
    proto = model("g (int64[4] i) => (float[4,3] y) { y = Gather (table, i) }", table=(5, 3))
    check(proto, tmp_path)
    table = numpy_helper.to_array(proto.graph.initializer[0])
    y = runtime.load(tmp_path)({"i": np.array([0, -1, 10**12, 4])})["y"]
    np.testing.assert_array_equal(y, table[[0, 4, 4, 4]])


def test_an_output_may_be_an_input_or_a_constant(tmp_path: Path) -> None:
    proto = model(
        "g (float[3] x) => (float[3] y, float[2] c, float[3] z) { y = Identity (x) c = Identity (k) z = Relu (x) }",
        k=np.array([1.5, -2], np.float32),
    )
    check(proto, tmp_path)


def residual_net(blocks: int = 2, width: int = 12) -> onnx.ModelProto:
    """A small CIFAR-style residual network with random weights, BatchNorm kept."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(op: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], name=f"{op.lower()}{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    def parameter(array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"p{len(weights)}"))
        return weights[-1].name

    def unit(x: str, fan: int, out: int, kernel: int, stride: int) -> str:
        w = parameter(rng.normal(0, np.sqrt(2 / (fan * kernel**2)), (out, fan, kernel, kernel)))
        x = add("Conv", [x, w], strides=[stride] * 2, pads=[kernel // 2] * 4)
        draw = lambda low, high: parameter(rng.uniform(low, high, out))  # noqa: E731
        return add("BatchNormalization", [x, draw(0.8, 1.2), draw(-0.2, 0.2), draw(-0.2, 0.2), draw(0.8, 1.2)])

    x, fan = add("Relu", [unit("x", 3, width, 3, 1)]), width
    for stage in range(3):
        for block in range(blocks):
            out, stride = width << stage, 2 if stage and not block else 1
            branch = unit(add("Relu", [unit(x, fan, out, 3, stride)]), out, out, 3, 1)
            shortcut = x if fan == out else unit(x, fan, out, 1, stride)
            x, fan = add("Relu", [add("Add", [branch, shortcut])]), out
    x = add("Flatten", [add("GlobalAveragePool", [x])])
    x = add("Gemm", [x, parameter(rng.normal(0, 0.1, (10, fan))), parameter(rng.normal(0, 0.1, 10))], transB=1)
    values = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 32, 32]),
        helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, ["N", 10]),
    ]
    graph = helper.make_graph(nodes, "residual", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_residual_network_is_its_convolutions(tmp_path: Path) -> None:
    steps: list[str] = []
    proto = residual_net()
    artefact = compile_model(proto, tmp_path / "again", shapes={"x": (1, 3, 32, 32)}, progress=steps.append)
    assert steps == list(artefact.seconds)
    artefact = check(proto, tmp_path, shapes={"x": (2, 3, 32, 32)})
    convolutions = sum(node.op_type == "Conv" for node in proto.graph.node)
    assert kinds(artefact) == {"ours": convolutions + 2}  # the global average and the last Gemm


def test_the_folder_holds_libraries_weights_and_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    artefact = check(residual_net(1, 4), folder, shapes={"x": (1, 3, 32, 32)})
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    assert manifest == artefact.manifest
    files = ["libmodel.a", "manifest.json", "model.h", manifest.library, "weights.bin"]
    assert sorted(p.name for p in folder.iterdir()) == files
    assert (folder / "weights.bin").stat().st_size == manifest.weights_bytes
    assert manifest.name == "residual"
    named = {name for kernel in manifest.kernels for name in kernel.nodes}
    assert {n.name for n in residual_net(1, 4).graph.node if n.op_type == "Add"} <= named


def test_without_a_c_compiler_the_hint_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CompileError, match="no C compiler") as caught:
        compile_model(residual_net(1, 4), tmp_path, shapes={"x": (1, 3, 32, 32)})
    assert "graphprune[edge]" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of this platform was not tried with zig")
def test_zig_links_where_there_is_no_cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    proto = model("g (float[4] x) => (float[4] y) { y = Exp (x) }")
    compile_model(proto, tmp_path)
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    np.testing.assert_allclose(runtime.load(tmp_path)({"x": x})["y"], np.exp(x), rtol=1e-5)
