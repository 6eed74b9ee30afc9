"""Sparse weights: packing, when they are worth it, and every geometry with zeros in blocks of every height."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from graphprune import runtime
from graphprune.compiler import targets
from graphprune.compiler.kernels import tiling
from graphprune.compiler.kernels.product import Product, Tile
from graphprune.compiler.kernels.sparse import pack
from graphprune.compiler.kernels.tiling import plan, plan_sparse
from tests.compiler.kernels.test_conv import CASES, conv
from tests.compiler.oracle import check, check_elsewhere, feeds, kernels, model, need_target, thinned

DEEP = "deep: k is cut into chunks"


@pytest.fixture
def sparse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a layer is, its sparse kernel is taken."""
    dense = tiling.plans
    monkeypatch.setattr(
        tiling, "plans", lambda *args, **options: [replace(p, cost=math.inf) for p in dense(*args, **options)]
    )


@pytest.mark.usefixtures("sparse_only")
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(("depthwise", "whole"))])
def test_geometry(case: str, block: int, tmp_path: Path) -> None:
    artefact = check(thinned(CASES[case], 0.9, block), tmp_path)
    assert [k.name for k in kernels(artefact)] == ["sparse_conv"]


@pytest.mark.usefixtures("sparse_only")
@pytest.mark.parametrize("case", [DEEP, "grouped", "1x1, fewer pixels than lanes"])
def test_other_register_files(case: str, narrow_target: str, tmp_path: Path) -> None:
    check(thinned(CASES[case], 0.8, 4), tmp_path, target=narrow_target)


MATMULS = {
    "tokens": ((128, 48), 96),
    "fewer rows than lanes": ((1, 3, 40), 24),
    "one row": ((1, 64), 10),
    "batches, and a last tile that overlaps": ((2, 37, 33), 17),
    "deep: k is cut into chunks": ((40, 1000), 13),
}


@pytest.mark.usefixtures("sparse_only")
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("case", MATMULS)
def test_matrix_products(case: str, block: int, tmp_path: Path) -> None:
    shape, columns = MATMULS[case]
    dims, out = ",".join(map(str, shape)), ",".join(map(str, (*shape[:-1], columns)))
    text = f"""g (float[{dims}] x, float[{out}] r) => (float[{out}] y) {{
        p = MatMul (x, w)
        b = Add (p, bias)
        s = Add (b, r)
        y = Clip (s, low, high)
    }}"""
    rng = np.random.default_rng(0)
    kept = np.repeat(rng.random((shape[-1], -(-columns // block))) > 0.8, block, 1)[:, :columns]
    w = (rng.normal(size=kept.shape) * kept).astype(np.float32)
    bounds = {"low": np.float32(-2), "high": np.float32(3)}
    proto = model(text, w=w, bias=(columns,), **bounds)
    assert [k.name for k in kernels(check(proto, tmp_path))] == ["sparse_matmul"]
    inputs = feeds(proto)
    alone, together = runtime.load(tmp_path)(inputs), runtime.load(tmp_path, threads=3)(inputs)
    assert np.array_equal(alone["y"], together["y"])


@pytest.mark.usefixtures("sparse_only")
@pytest.mark.parametrize("target", ["aarch64", "wasm32"])
def test_elsewhere(target: str, tmp_path: Path) -> None:
    need_target(target)
    artefact = check_elsewhere(thinned(CASES[DEEP], 0.8, 4), tmp_path, target)
    assert kernels(artefact)[0].name == "sparse_conv"


def test_nothing_but_bias_is_left_of_zeros(tmp_path: Path) -> None:
    proto = conv(3, (5, 5), 4, (3, 3))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w"))
    assert check(proto, tmp_path).manifest.kernels[0].name == "sparse_conv"


@pytest.mark.usefixtures("sparse_only")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_convolution(tmp_path: Path, data: st.DataObject) -> None:
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = number(1, 2)
    proto = conv(
        groups * number(1, 9),
        (number(3, 20), number(3, 20)),
        groups * number(1, 19),
        (number(1, 3), number(1, 3)),
        batch=number(1, 2),
        group=groups,
        strides=[number(1, 2), number(1, 2)],
        pads=[number(0, 1) for _ in range(4)],
    )
    check(thinned(proto, number(3, 9) / 10, number(1, 5), seed=number(0, 9)), tmp_path)


def test_blocks_are_listed_group_by_group_and_chunk_by_chunk() -> None:
    a = np.zeros((1, 3, 4), np.float32)
    a[0, 0, 1], a[0, 1, 3], a[0, 2, 0] = 1, 2, 3
    packed = pack(a, Product(rows=3, columns=9, depth=4, tile=Tile(2, 1, 8), strip=1, chunk=2))
    assert packed.pointers.tolist() == [0, 1, 2, 3, 3]  # blocks of rows 0-1 and 2, in k 0-1, then in k 2-3
    assert packed.offsets.tolist() == [8, 0, 8]
    assert packed.values.tolist() == [[1, 0], [3, 0], [0, 2]]


@pytest.mark.parametrize("target", [targets.resolve(n) for n in ("x86-64", "aarch64", "wasm32")])
def test_sparse_is_chosen_where_it_does_less(target: object) -> None:
    rng = np.random.default_rng(0)
    dense = plan(256, 784, 256, target).cost  # type: ignore[arg-type]

    def sparse(share: float, block: int) -> Product:
        kept = np.repeat(rng.random((1, 256 // block, 256)) >= share, block, 1)
        return plan_sparse(kept, 784, target)  # type: ignore[arg-type]

    assert sparse(0, 4).cost > dense
    assert sparse(0.5, 4).cost < 0.8 * dense
    assert sparse(0.8, 4).cost < 0.4 * dense
    assert sparse(0.8, 4).cost < sparse(0.8, 1).cost < dense
    assert sparse(0.8, 4).tile.rows in (2, 4)
    assert sparse(0.8, 1).tile.rows == 1
