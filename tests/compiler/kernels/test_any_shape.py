"""Every kernel on shapes, tiles, epilogues and shares that hypothesis draws, with every array between fences.

Odd sizes, one pixel, one channel and tails are among them. The way to compute a layer is drawn as well, so that tiles
which the cost model would never take are right too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.compiler.ways import Way, Ways
from tests.compiler.fences import check_fenced
from tests.compiler.oracle import model, thinned

FEW = settings(max_examples=settings().max_examples // 6)
BOUNDS = {
    "": "y = Identity (s)",
    "relu": "y = Relu (s)",
    "clip": "y = Clip (s, low, high)",
    "above": "y = Max (s, low)",
    "below": "y = Min (s, high)",
}


class Drawn:
    """Takes any of the ways of some kind."""

    few = 100

    def __init__(self, draw: Any, kind: str) -> None:
        self.draw, self.kind = draw, kind

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        """One of them."""
        return self.draw(st.sampled_from([way for way in ways.found if way.kind == self.kind])), ""


def fused(draw: Any, operator: str, x: tuple[int, ...], y: tuple[int, ...], **weights: Any) -> onnx.ModelProto:
    """`operator`, which makes `o`, then a scale, an addition and bounds, as drawn."""
    flag = lambda: draw(st.booleans())  # noqa: E731
    dims = [",".join(map(str, shape)) for shape in (x, y)]
    residual = flag()
    lines = [operator, "m = Mul (o, scale)" if flag() else "m = Identity (o)"]
    lines += ["s = Add (r, m)" if residual else "s = Identity (m)", BOUNDS[draw(st.sampled_from([*BOUNDS]))]]
    inputs = f"float[{dims[0]}] x" + f", float[{dims[1]}] r" * residual
    text = f"g ({inputs}) => (float[{dims[1]}] y) {{ {' '.join(lines)} }}"
    bounds = {"low": np.float32(-0.5), "high": np.float32(0.75), "scale": np.float32(-1.5)}
    return model(text, **weights, **{name: value for name, value in bounds.items() if name in text})


def convolution(data: st.DataObject, depthwise: bool = False, plain: bool = False) -> onnx.ModelProto:
    """Any convolution; a `plain` one is 3 × 3 at stride 1."""
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    batch, groups = number(1, 2), 1 if plain else number(1, 3)
    inside, outside = (1, number(1, 2)) if depthwise else (number(1, 11), number(1, 19))
    groups = number(1, 9) if depthwise else groups
    kernel = (3, 3) if plain else (number(1, 5), number(1, 5))
    stride, dilation = ((1, 1), (1, 1)) if plain else ((number(1, 3), number(1, 3)), (number(1, 2), number(1, 2)))
    pad = [number(0, 2) for _ in range(4)]
    span = [dilation[a] * (kernel[a] - 1) + 1 for a in (0, 1)]
    size = [max(number(1, 21), span[a] - pad[a] - pad[a + 2] + plain) for a in (0, 1)]
    out = [(size[a] + pad[a] + pad[a + 2] - span[a]) // stride[a] + 1 for a in (0, 1)]
    said = f"strides={list(stride)}, dilations={list(dilation)}, pads={pad}, group={groups}"
    return fused(
        data.draw,
        f"o = Conv <{said}> (x, w, b)",
        (batch, groups * inside, *size),
        (batch, groups * outside, *out),
        w=(groups * outside, inside, *kernel),
        b=(groups * outside,),
    )


def product(data: st.DataObject, *rows: int, zeros: float = 0.0) -> onnx.ModelProto:
    """Any product of some rows, or of any, with a constant matrix, with a bias."""
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    leading, depth, columns = data.draw(st.lists(st.integers(1, 5), max_size=2)), number(1, 70), number(1, 45)
    rows = rows or (*leading, number(1, 19))
    operator = "p = MatMul (x, w) o = Add (p, b)"
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(depth, columns)) * (rng.random((depth, columns)) >= zeros)).astype(np.float32)
    w[0, 0], w[-1, -1] = w[0, 0] * (zeros == 0), 1  # a zero, and something to come out
    return fused(data.draw, operator, (*rows, depth), (*rows, columns), w=w, b=(columns,))


def parts(data: st.DataObject) -> tuple[int, ...]:
    """How many threads share a call."""
    return (data.draw(st.sampled_from([1, 2, 3, 5])),)


@FEW
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    proto = convolution(data)
    check_fenced(proto, pick=Drawn(data.draw, "dense"), parts=parts(data))


@FEW
@given(st.data())
def test_sparse_convolution(data: st.DataObject) -> None:
    proto = thinned(convolution(data), data.draw(st.sampled_from([0.5, 0.9])), data.draw(st.integers(1, 5)))
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    check_fenced(proto, pick=Drawn(data.draw, "dense" if weight.all() else "sparse"), parts=parts(data))


@settings(max_examples=settings().max_examples // 4)
@given(st.data())
def test_winograd(data: st.DataObject) -> None:
    assert check_fenced(convolution(data, plain=True), pick=Drawn(data.draw, "Winograd"), parts=parts(data))


@FEW
@given(st.data())
def test_depthwise(data: st.DataObject) -> None:
    check_fenced(convolution(data, depthwise=True), parts=parts(data))


@FEW
@given(st.data())
def test_pooling(data: st.DataObject) -> None:
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    kernel, stride = (number(1, 4), number(1, 4)), (number(1, 3), number(1, 3))
    pad = [number(0, k - 1) for k in (*kernel, *kernel)]
    size = [max(number(1, 21), kernel[a] - pad[a] - pad[a + 2]) for a in (0, 1)]
    out = [(size[a] + pad[a] + pad[a + 2] - kernel[a]) // stride[a] + 1 for a in (0, 1)]
    said = f"kernel_shape={list(kernel)}, strides={list(stride)}, pads={pad}"
    operator = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    if operator == "AveragePool":
        said += f", count_include_pad={number(0, 1)}"
    shapes = [",".join(map(str, (2, 3, *extent))) for extent in (size, out)]
    text = f"g (float[{shapes[0]}] x) => (float[{shapes[1]}] y) {{ y = {operator} <{said}> (x) }}"
    check_fenced(model(text), parts=parts(data))


@FEW
@given(st.data())
def test_matrix_product(data: st.DataObject) -> None:
    proto = product(data)
    check_fenced(proto, pick=Drawn(data.draw, "dense"), parts=parts(data))


@FEW
@given(st.data())
def test_sparse_matrix_product(data: st.DataObject) -> None:
    rows = data.draw(st.sampled_from([(), (1,)]))
    proto = product(data, *rows, zeros=0.8)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    check_fenced(proto, pick=Drawn(data.draw, "dense" if weight.all() else "sparse"), parts=parts(data))


@FEW
@given(st.data())
def test_product_of_two_inputs(data: st.DataObject) -> None:
    batch, rows, depth, columns = (data.draw(st.integers(1, high)) for high in (4, 19, 40, 30))
    text = f"""g (float[{batch},{rows},{depth}] x, float[{batch},{depth},{columns}] z)
        => (float[{batch},{rows},{columns}] y) {{ y = MatMul (x, z) }}"""
    check_fenced(model(text), pick=Drawn(data.draw, "dense"), parts=parts(data))


@FEW
@given(st.data())
def test_rows(data: st.DataObject) -> None:
    rows, columns = (data.draw(st.integers(1, 40)) for _ in range(2))
    operator, width = data.draw(
        st.sampled_from(
            [
                ("Softmax <axis=-1> (x)", columns),
                ("ReduceMean <axes=[-1]> (x)", 1),
                ("ReduceMax <axes=[-1]> (x)", 1),
                ("LayerNormalization <axis=-1> (x, scale, shift)", columns),
                ("Concat <axis=1> (x, x, x)", 3 * columns),
            ]
        )
    )
    text = f"g (float[{rows},{columns}] x) => (float[{rows},{width}] y) {{ y = {operator} }}"
    more: dict[str, Any] = {"scale": (columns,), "shift": (columns,)} if "scale" in operator else {}
    check_fenced(model(text, **more), parts=parts(data))


@FEW
@given(st.data())
def test_recurrent(data: st.DataObject) -> None:
    steps, batch, inside, hidden = (data.draw(st.integers(1, high)) for high in (5, 3, 9, 37))
    kind, gates = data.draw(st.sampled_from([("LSTM", 4), ("GRU", 3)]))
    direction = data.draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    d = 1 + (direction == "bidirectional")
    said = f'hidden_size = {hidden}, direction = "{direction}"'
    said += f", linear_before_reset = {data.draw(st.integers(0, 1))}" * (kind == "GRU")
    text = f"""g (float[{steps},{batch},{inside}] x) => (float[{steps},{d},{batch},{hidden}] y) {{
        y = {kind} <{said}> (x, w, r, bias)
    }}"""
    weights = {"w": (d, gates * hidden, inside), "r": (d, gates * hidden, hidden), "bias": (d, 2 * gates * hidden)}
    check_fenced(model(text, **weights), parts=parts(data))
