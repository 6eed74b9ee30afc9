"""Kernels for graphics processors compute what onnxruntime does, in every tile, with k in one part or many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphprune.compiler.kernels import block, gpu
from graphprune.compiler.kernels.conv import Conv
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.ways import Way, Ways
from tests.compiler.fake_cuda import Fake
from tests.compiler.oracle import assert_same, feeds, model, reference

LAYERS = {
    "3 × 3": ("x[2,8,5,9]", "Conv <pads = [1,1,1,1]> (x, w, b)", (21, 8, 3, 3)),
    "1 × 1": ("x[1,67,6,6]", "Conv (x, w, b)", (35, 67, 1, 1)),
    "1 × 1 of odd size": ("x[1,33,5,5]", "Conv (x, w, b)", (5, 33, 1, 1)),
    "1 × 1 stride 2": ("x[1,17,8,8]", "Conv <strides = [2,2]> (x, w, b)", (3, 17, 1, 1)),
    "colours": ("x[1,3,13,9]", "Conv <strides = [2,2], pads = [3,3,3,3]> (x, w, b)", (17, 3, 7, 7)),
    "dilated": ("x[1,20,11,9]", "Conv <dilations = [2,3], pads = [2,0,1,3]> (x, w, b)", (6, 20, 3, 2)),
    "grouped": ("x[2,36,4,5]", "Conv <group = 2, pads = [0,1,0,1]> (x, w, b)", (12, 18, 1, 3)),
    "one column": ("x[1,130,1,1]", "Conv (x, w, b)", (20, 130, 1, 1)),
    "product": ("x[2,9,70]", "MatMul (x, w)", (70, 37)),
    "product in fours": ("x[33,64]", "MatMul (x, w)", (64, 20)),
    "one row": ("x[1,140]", "MatMul (x, w)", (140, 50)),
}


def layer(name: str, copies: int) -> onnx.ModelProto:
    """The layer many times, with an epilogue."""
    x, operator, shape = LAYERS[name]
    weights = {"w": shape} | ({"b": shape[:1]} if operator.startswith("Conv") else {})
    lines = "".join(f"a{i} = {operator} y{i} = Clip (a{i}, low, high)\n" for i in range(copies))
    outputs = ", ".join(f"float[] y{i}" for i in range(copies))
    bounds = {"low": np.float32(-0.5), "high": np.float32(0.75)}
    proto = model(f"g (float{x[1:]} x) => ({outputs}) {{ {lines} }}", **weights, **bounds)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto)


class OneAfterAnother:
    """Takes another way for every layer."""

    few = 1000

    def __init__(self) -> None:
        self.taken: list[Way] = []

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        tiles: dict[str, Way] = {}
        for way in sorted(ways.found, key=lambda way: -way.loops.count("parts")):
            tiles.setdefault(way.loops.split(" parts")[0], way)
        found = list(tiles.values())
        self.taken.append(found[len(self.taken) % len(found)])
        return self.taken[-1], "to see that it is right"


@pytest.mark.parametrize("name", LAYERS)
def test_every_tile_computes_the_layer(name: str, tmp_path: Path) -> None:
    proto, pick = layer(name, 12), OneAfterAnother()
    fake = Fake(proto, tmp_path, pick=pick)
    inputs = feeds(proto)
    assert_same(fake.run(inputs), reference(proto, inputs))
    assert len({way.loops for way in pick.taken}) == 12
    assert [kernel.kind for kernel in fake.manifest.kernels] == ["ours"] * 12


def test_a_residual_is_added_before_the_bounds(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,24,6,6] x, float[7,72] z) => (float[1,24,6,6] y, float[7,72] u) {
            a = Conv <pads = [1,1,1,1]> (x, w, b) c = Add (a, x) y = Relu (c)
            d = MatMul (z, v) e = Add (d, z) u = Relu (e)
        }""",
        w=(24, 24, 3, 3),
        b=(24,),
        v=(72, 72),
    )
    inputs = feeds(proto)
    for parts in (False, True):

        class Some:
            few = 1000

            def __call__(self, ways: Ways, parts: bool = parts) -> tuple[Way, str]:
                return next(way for way in ways.found if ("parts" in way.loops) is parts), ""

        fake = Fake(proto, tmp_path / str(parts), pick=Some())
        assert_same(fake.run(inputs), reference(proto, inputs))
        assert len(fake.manifest.kernels) == 2


@pytest.mark.parametrize("enough", [1, 40, 1 << 16])
def test_depthwise_whatever_a_thread_computes(enough: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_ENOUGH", enough)
    proto = model(
        """g (float[2,6,9,7] x) => (float[2,6,9,7] y, float[2,12,5,4] z, float[2,6,9,9] u) {
            a = Conv <group = 6, pads = [1,1,1,1]> (x, v, b) c = Add (a, x) y = Relu (c)
            z = Conv <group = 6, strides = [2,2], pads = [2,2,2,2]> (x, w)
            u = Conv <group = 6, dilations = [1,2], pads = [0,2,0,2]> (x, t)
        }""",
        v=(6, 1, 3, 3),
        b=(6,),
        w=(12, 1, 5, 5),
        t=(6, 1, 1, 2),
    )
    fake = Fake(proto, tmp_path)
    inputs = feeds(proto)
    assert_same(fake.run(inputs), reference(proto, inputs))
    assert [kernel.name.rstrip("012") for kernel in fake.manifest.kernels] == ["depthwise"] * 3


def test_products_of_activations(tmp_path: Path) -> None:
    proto = model(
        """g (float[2,3,5,9] q, float[2,3,9,7] k, float[7,4] v) => (float[2,3,5,4] y) {
            s = MatMul (q, k) y = MatMul (s, v)
        }"""
    )
    fake = Fake(proto, tmp_path)
    inputs = feeds(proto)
    assert_same(fake.run(inputs), reference(proto, inputs))
    assert [kernel.kind for kernel in fake.manifest.kernels] == ["ours", "ours"]


def conv(channels: int, kernel: int) -> Conv:
    return Conv(1, channels, 8, 1, Window((9, 9), (kernel, kernel), (1, 1), (1, 1), (0, 0, 0, 0), (7, 7)), Epilogue())


def test_slices_have_one_tap_unless_that_adds_much() -> None:
    assert gpu.order(conv(64, 3), 16) == gpu.Order(64, 9, 16)
    assert gpu.order(conv(64, 3), 16).whole == 9 * 64
    assert gpu.order(conv(15, 3), 16).whole == 9 * 16
    assert not gpu.order(conv(3, 3), 16).by_taps
    assert gpu.order(conv(3, 3), 16).whole == 32  # 27, filled up to two slices


def test_no_part_is_empty_and_few_tiles_are_split() -> None:
    found = block.plans(1, 512, 49, lambda tile: 4608)
    assert all((shape.splits - 1) * shape.part < shape.slices for shape in found)
    assert found[0].splits > 1
    assert block.plans(1, 64, 112 * 112, lambda tile: 32)[0].splits == 1
    assert [shape.cost for shape in found] == sorted(shape.cost for shape in found)
