"""Winograd tiles: every geometry, both tile sizes, their numerical error, and when they are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler.kernels import winograd
from graphprune.compiler.kernels.conv import Conv
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.targets.x86_64 import TARGET as X86_64
from tests.compiler.kernels.test_conv import conv
from tests.compiler.oracle import check, check_elsewhere, kernels, model, need_target

CASES = {
    "whole tiles": conv(5, (8, 16), 7, (3, 3), pads=[1, 1, 1, 1]),
    "ragged, two images": conv(3, (13, 30), 6, (3, 3), pads=[1, 0, 2, 1], batch=2),
    "fewer tiles than lanes": conv(9, (7, 7), 17, (3, 3), pads=[1, 1, 1, 1]),
    "no padding": conv(4, (9, 70), 5, (3, 3)),
    "smaller than a tile": conv(2, (4, 5), 3, (3, 3)),
}


@pytest.fixture(params=[2, 4])
def tiles_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of one size are taken however small a layer is, two rows of them at a time."""
    ways = winograd._ways

    def cheap(conv: Conv, m: int, target: object) -> list[winograd.Winograd]:
        found = ways(conv, m, target) if m == request.param else []  # type: ignore[arg-type]
        return [replace(way, cost=1 + abs(way.rows - 2)) for way in found]

    monkeypatch.setattr(winograd, "_ways", cheap)


@pytest.mark.usefixtures("tiles_only")
@pytest.mark.parametrize("case", CASES)
def test_geometry(case: str, tmp_path: Path) -> None:
    assert [k.name for k in kernels(check(CASES[case], tmp_path))] == ["winograd"]


@pytest.mark.usefixtures("tiles_only")
def test_other_register_files(narrow_target: str, tmp_path: Path) -> None:
    check(CASES["ragged, two images"], tmp_path, target=narrow_target)


@pytest.mark.usefixtures("tiles_only")
def test_what_follows_is_part_of_the_kernel(tmp_path: Path) -> None:
    proto = model(
        """g (float[1,6,9,11] x) => (float[1,6,9,11] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            s = Add (x, a)
            y = Clip (s, low, high)
        }""",
        w=(6, 6, 3, 3),
        b=(6,),
        low=np.float32(-0.5),
        high=np.float32(0.75),
    )
    assert [k.name for k in kernels(check(proto, tmp_path))] == ["winograd"]


HERE = replace(X86_64, zig="")  # built for this machine, not to be shipped


def layer(channels: int, size: int, filters: int, stride: int = 1) -> Conv:
    out = (size // stride, size // stride)
    window = Window((size, size), (3, 3), (stride, stride), (1, 1), (1, 1, 1, 1), out)
    return Conv(1, channels, filters, 1, window, Epilogue())


def test_tiles_are_taken_where_they_save_and_only_at_stride_1() -> None:
    weight = np.random.default_rng(0).normal(size=(64, 64, 3, 3)).astype(np.float32)
    wide = layer(64, 56, 64)
    way = next(winograd.plans(wide, weight, HERE), None)
    assert way is not None
    assert way.m == 4
    assert way.cost < 0.6 * wide.products(HERE)[0].cost
    assert next(winograd.plans(layer(64, 56, 64, stride=2), weight, HERE), None) is None
    assert next(winograd.plans(wide, weight, replace(X86_64, zig="x86_64-linux-gnu.2.17")), None) is not None
    thin = layer(3, 56, 8)
    few = next(winograd.plans(thin, weight[:8, :3], HERE), None)
    assert few is None or few.cost > thin.products(HERE)[0].cost


@pytest.mark.usefixtures("tiles_only")
@pytest.mark.parametrize("target", ["wasm32", "aarch64"])
def test_filters_are_transformed_by_whoever_loads_the_model(target: str, tmp_path: Path) -> None:
    need_target(target)
    artefact = check_elsewhere(CASES["fewer tiles than lanes"], tmp_path, target)
    (kernel,) = kernels(artefact)
    places = 16 if "Winograd 2" in kernel.how else 36
    least, most = 4 * 9 * 17, 4 * 9 * 24  # bytes of all filters at one place or tap; the last block is filled up
    assert 9 * least < artefact.manifest.weights_bytes < 9 * most + 512
    assert places * least < artefact.manifest.prepared_bytes < places * most + 512


def test_tiles_that_lose_too_much_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).normal(size=(16, 64, 3, 3)).astype(np.float32)
    assert 0 < winograd.error(weight, 2) < winograd.error(weight, 4) < winograd.ERROR
    monkeypatch.setattr(winograd, "ERROR", winograd.error(weight, 2))
    way = next(winograd.plans(layer(64, 56, 16), weight, HERE), None)
    assert way is not None
    assert way.m == 2
    monkeypatch.setattr(winograd, "ERROR", 0.0)
    assert next(winograd.plans(layer(64, 56, 16), weight, HERE), None) is None
