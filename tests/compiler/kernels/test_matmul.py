"""Matrix products: constant and dynamic operands, narrow and ragged shapes, what is fused into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphprune.compiler.kernels.matmul import pack_panels
from graphprune.compiler.kernels.product import Product, Tile
from graphprune.compiler.kernels.tiling import plan
from graphprune.compiler.targets import Target
from tests.compiler.oracle import check, kinds, model


def matmul(a: str, b: tuple[int, ...]) -> onnx.ModelProto:
    """`a` by a constant."""
    return model(f"g (float[{a}] x) => (float[p, q] y) {{ y = MatMul (x, w) }}", w=b)


def product(a: str, b: str) -> onnx.ModelProto:
    """Two inputs multiplied."""
    return model(f"g (float[{a}] x, float[{b}] z) => (float[p, q] y) {{ y = MatMul (x, z) }}")


CASES = {
    "one row": matmul("1,70", (70, 130)),
    "one column": matmul("9,70", (70, 1)),
    "ragged": matmul("37,65", (65, 83)),
    "narrower than a vector": matmul("5,12", (12, 3)),
    "long k": matmul("8,3000", (3000, 48)),
    "leading axes": model("g (float[2,3,5,8] x) => (float[2,3,5,9] y) { y = MatMul (x, w) }", w=(8, 9)),
    "dynamic": product("17,33", "33,29"),
    "dynamic, narrow": product("6,20", "20,5"),
    "one b for all": product("2,3,4,6", "1,1,6,5"),
    "batched": model(
        "g (float[2,3,7,16] x, float[2,3,16,21] z) => (float[2,3,7,21] y) { y = MatMul (x, z) }",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_shapes(case: str, tmp_path: Path) -> None:
    proto = CASES[case]
    rank = len(proto.graph.input[0].type.tensor_type.shape.dim)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    for _ in range(rank):
        proto.graph.output[0].type.tensor_type.shape.dim.add()
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


def test_other_register_files(narrow_target: str, tmp_path: Path) -> None:
    assert kinds(check(CASES["ragged"], tmp_path, target=narrow_target)) == {"ours": 1}


def test_gemm_with_transposed_weights_bias_and_relu_is_one_kernel(tmp_path: Path) -> None:
    proto = model(
        "g (float[3,20] x) => (float[3,33] y) { g = Gemm <transB = 1, beta = 0.5> (x, w, b) y = Relu (g) }",
        w=(33, 20),
        b=(33,),
    )
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


def test_residual_of_a_projection(tmp_path: Path) -> None:
    proto = model(
        "g (float[4,16] x) => (float[4,16] y) { m = MatMul (x, w) a = Add (b, m) y = Add (x, a) }", w=(16, 16), b=(16,)
    )
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


def test_scores_of_attention_keep_their_scale(tmp_path: Path) -> None:
    proto = model(
        """g (float[2,4,9,8] q, float[2,4,9,8] k, float[2,4,9,8] v) => (float[2,4,9,8] y) {
            t = Transpose <perm = [0, 1, 3, 2]> (k)
            s = MatMul (q, t)
            d = Div (s, root)
            p = Softmax <axis = -1> (d)
            y = MatMul (p, v)
        }""",
        root=np.float32(8**0.5),
    )
    kernels = check(proto, tmp_path).manifest.kernels
    assert sum(k.kind == "ours" and k.name.startswith("matmul") for k in kernels) == 2


def test_panels_overlap_at_the_end() -> None:
    b = np.arange(10, dtype=np.float32).reshape(2, 5)
    shape = Product(rows=1, columns=5, depth=2, tile=Tile(1, 1, 4), strip=1, chunk=2)
    assert pack_panels(b, shape).tolist() == [[[0, 1, 2, 3], [5, 6, 7, 8]], [[1, 2, 3, 4], [6, 7, 8, 9]]]
    wide = Product(rows=1, columns=5, depth=2, tile=Tile(1, 1, 4), strip=2, chunk=2)
    assert pack_panels(b, wide).tolist() == [[[0, 1, 2, 3, 1, 2, 3, 4], [5, 6, 7, 8, 6, 7, 8, 9]]]


@pytest.mark.parametrize(("lanes", "registers"), [(4, 16), (4, 32), (8, 16), (16, 32)])
def test_tiles_fit_the_registers(lanes: int, registers: int) -> None:
    target = Target("t", "", "", (), lanes, registers, "model.so")
    for rows in (1, 3, 7, 16, 37, 512):
        for columns in (1, 7, 49, 196, 3136):
            tile = plan(rows, columns, 576, target).tile
            assert tile.rows * tile.vectors + tile.vectors + 1 <= registers
            assert tile.rows <= rows
