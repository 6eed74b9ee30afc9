"""Sizes: which are open, what binds them, and what follows."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from graphprune.errors import InvalidModelError, UsageError
from graphprune.model.shapes import Meter, bind, infer, symbolic_axes

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,3,H,W] image, float[batch,N] extra) => (float[batch,K] y)
<float[5,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, int64[2] flat = {0,-1}>
{ a = Conv(image, w)  b = GlobalAveragePool(a)  c = Reshape(b, flat)  y = Concat<axis=1>(c, extra) }"""


@pytest.fixture
def proto():
    return onnx.parser.parse_model(NET)


def test_open_axes(proto):
    assert [symbolic_axes(info) for info in proto.graph.input] == [{0, 2, 3}, {0, 1}]


def test_defaults_and_what_overrides_them(proto):
    inputs = list(proto.graph.input)
    assert bind(inputs, {}, {}) == {"image": (1, 3, 224, 224), "extra": (1, 64)}
    assert bind(inputs, {}, {"batch": 4, "H": 32}) == {"image": (4, 3, 32, 224), "extra": (4, 64)}
    given = bind(inputs, {"image": (2, 3, 8, 9)}, {})
    assert given == {"image": (2, 3, 8, 9), "extra": (2, 64)}  # one name, one size


def test_misfits(proto):
    inputs = list(proto.graph.input)
    for shapes, params in (
        ({"image": (1, 3, 8)}, {}),
        ({"image": (1, 4, 8, 8)}, {}),
        ({"x": (1,)}, {}),
        ({}, {"x": 1}),
    ):
        with pytest.raises(UsageError):
            bind(inputs, shapes, params)


def test_inference_with_and_without_sizes(proto):
    concrete = infer(proto, "net", {"image": (2, 3, 8, 9), "extra": (2, 7)})[0]
    assert concrete["a"] == (2, 5, 8, 9)
    assert concrete["y"] == (2, 12)
    symbolic = infer(onnx.parser.parse_model(NET), "net", None)[0]
    assert symbolic["a"][:2] == ("batch", 5)
    assert all(isinstance(size, str) for size in symbolic["a"][2:])
    assert symbolic["c"] == ("batch", 5)


def test_sizes_that_do_not_fit_are_an_error(proto):
    with pytest.raises(InvalidModelError, match="net: shapes do not fit"):
        infer(proto, "net", {"image": (1, 3, 8, 8), "extra": (3, 7)})


ARITHMETIC = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,H,W] x, int64[k] seed) => (float[a,b,c,d] y, int64[e,f] z)
{ s = Shape(x)  f = Cast<to=1>(s)  g = Sqrt(f)  h = Cast<to=7>(g)  y = Expand(x, h)  z = NonZero(seed) }"""


@pytest.mark.parametrize("kinds", [{}, {"g": TensorProto.FLOAT}, {"g": TensorProto.FLOAT, "z": TensorProto.INT64}])
def test_what_inference_cannot_tell_is_measured(kinds):
    sizes = {"x": (1, 3, 1, 1), "seed": (4,)}
    inferred = infer(onnx.parser.parse_model(ARITHMETIC), "net", sizes)[0]["y"]
    assert not all(isinstance(size, int) for size in inferred)
    meter = Meter(lambda: (onnx.parser.parse_model(ARITHMETIC.replace("Sqrt(f)", "Identity(f)")), {}), kinds)
    assert meter(["g", "z"], sizes) == {"g": (4,), "z": (1, None)}  # no size of what depends on the data
    assert set(meter.dtypes) == {"g", "z"} - set(kinds)


def test_what_cannot_be_run_has_no_shapes():
    foreign = ARITHMETIC.replace('"" : 17', '"" : 17, "acme" : 1').replace("Sqrt(f)", "acme.Frobnicate(f)")
    assert Meter(lambda: (onnx.parser.parse_model(foreign), {}), {})(["g"], {"x": (1, 3, 1, 1), "seed": (4,)}) == {}


def test_what_onnx_does_not_know_is_no_misfit_before_a_body_either():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[2,6] x, float[6] s, bool q) => (float[2,6] y, float[a,b] z) { t = SimplifiedLayerNormalization(x, s)
    y = If(q) <then_branch = a () => (float[2,6] m) { n = Neg(t)  m = Abs(n) },
               else_branch = b () => (float[2,6] o) { o = Exp(x) }>  z = Transpose(x) }"""
    shapes, _ = infer(onnx.parser.parse_model(text), "net", {"x": (2, 6), "s": (6,)})
    assert shapes["z"] == (6, 2)
