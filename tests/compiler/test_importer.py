"""What cannot be compiled says so in one line that names it; what is constant is known at compile time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from graphprune.compiler import compile_model
from graphprune.errors import CompileError
from tests.compiler.oracle import check, model


def test_a_symbolic_shape_must_be_given(tmp_path: Path) -> None:
    proto = model("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    with pytest.raises(CompileError, match=r"input 'x' has no fixed shape \(N × 3\)"):
        compile_model(proto, tmp_path)
    with pytest.raises(CompileError, match=r"input 'x' is N × 3 and cannot take the shape \(2, 4\)"):
        compile_model(proto, tmp_path, shapes={"x": (2, 4)})
    with pytest.raises(CompileError, match="the model has no input 'z'"):
        compile_model(proto, tmp_path, shapes={"x": (2, 3), "z": (1,)})
    artefact = check(proto, tmp_path, shapes={"x": (5, 3)})
    assert artefact.manifest.inputs[0].shape == (5, 3)
    assert artefact.manifest.outputs[0].shape == (5, 3)


def test_an_unknown_operator_is_named_with_its_node(tmp_path: Path) -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    proto.graph.node[0].op_type = "Frobnicate"
    proto.graph.node[0].name = "odd one"
    with pytest.raises(CompileError, match=r"node 'odd one': .*Frobnicate"):
        compile_model(proto, tmp_path)


def test_a_shape_that_depends_on_the_data_is_refused(tmp_path: Path) -> None:
    proto = model("g (float[4] x) => (int64[1,n] y) { y = NonZero (x) }")
    with pytest.raises(CompileError, match=r"depends on the data|runtime"):
        compile_model(proto, tmp_path)


def test_an_operator_of_the_runtime_library_is_refused(tmp_path: Path) -> None:
    proto = model("g (float[8] x) => (float[3] y, int64[3] i) { y, i = TopK (x, k) }", k=np.array([3]))
    with pytest.raises(CompileError, match=r"operator topk .*runtime"):
        compile_model(proto, tmp_path)


def test_a_dtype_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    proto = model("g (bfloat16[4] x) => (bfloat16[4] y) { y = Identity (x) }")
    with pytest.raises(CompileError, match="input 'x' has dtype bfloat16"):
        compile_model(proto, tmp_path)


def test_an_unknown_target_lists_those_there_are(tmp_path: Path) -> None:
    proto = model("g (float[4] x) => (float[4] y) { y = Relu (x) }")
    with pytest.raises(CompileError, match="unknown target 'abacus'") as caught:
        compile_model(proto, tmp_path, target="abacus")
    assert "host" in caught.value.hint


def test_shapes_computed_in_the_graph_are_constants(tmp_path: Path) -> None:
    """The chain that exporters write for `x.reshape(x.shape[0], -1)`, and weights in Constant nodes."""
    proto = model(
        """g (float[N,3,4] x) => (float[N,M] y) {
            s = Shape (x)
            first = Constant <value_int = 0> ()
            b = Gather (s, first)
            axes = Constant <value_ints = [0]> ()
            u = Unsqueeze (b, axes)
            rest = Constant <value_ints = [-1]> ()
            shape = Concat <axis = 0> (u, rest)
            r = Reshape (x, shape)
            half = Constant <value_float = 0.5> ()
            y = Mul (r, half)
        }"""
    )
    artefact = check(proto, tmp_path, shapes={"x": (2, 3, 4)})
    assert artefact.manifest.outputs[0].shape == (2, 12)


def test_the_callers_model_is_left_alone(tmp_path: Path) -> None:
    proto = model("g (float[N,3] x) => (float[N,3] y) { c = Constant <value_float = 2.0> () y = Mul (x, c) }")
    before = proto.SerializeToString()
    compile_model(proto, tmp_path, shapes={"x": (2, 3)})
    assert proto.SerializeToString() == before


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    relu = helper.make_function(
        "local", "Mine", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Mine", ["x"], ["y"], domain="local")], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    check(helper.make_model(graph, functions=[relu], opset_imports=opsets, ir_version=8), tmp_path)
