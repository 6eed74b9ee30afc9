"""Mirror images of pictures, where a model answers alike to both."""

from __future__ import annotations

import numpy as np
import pytest

import graphprune
from graphprune.calibration.activations import batched
from graphprune.calibration.mirrored import MOST, with_mirror_images
from graphprune.errors import UsageError
from graphprune.model import Model, load
from tests.law import net

ALIKE = "t = Conv(x, a)\nu = Relu(t)\ng = GlobalMaxPool(u)\nf = Flatten(g)\ny = Gemm(f, b)"
ANYWHERE = "f = Flatten(x)\ny = Gemm(f, b)"


def pooled(symmetric: bool, inputs: str = "float[1,3,8,8] x", body: str = ALIKE) -> Model:
    """The largest answers of kernels, which are the same read from left and from right, or not at all."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 3, 3, 3)).astype(np.float32)
    a[..., 2] = a[..., 0] * (1 if symmetric else -1)
    return batched(load(net(body, inputs=inputs, a=a, b=(6, 4))))


def pictures(count: int, shape: tuple[int, ...] = (3, 8, 8)) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)}


@pytest.mark.parametrize("count", [8, 9])
def test_pictures_and_their_mirror_images_are_at_even_or_odd_places_both(count):
    given = pictures(count)
    found = with_mirror_images(pooled(symmetric=True), given)["x"]
    assert np.array_equal(found[:count], given["x"])
    assert len(found) == 2 * count - count % 2
    for k, image in enumerate(found[count:], count):
        (original,) = np.flatnonzero((given["x"][..., ::-1] == image).all(axis=(1, 2, 3)))
        assert original % 2 == k % 2


def test_left_and_right_of_channels_that_come_last():
    model = pooled(True, "float[1,8,8,3] x", "z = Transpose<perm=[0,3,1,2]>(x)\n" + ALIKE.replace("Conv(x", "Conv(z"))
    given = pictures(6, (8, 8, 3))
    assert np.array_equal(with_mirror_images(model, given)["x"][6:], given["x"][:, :, ::-1])


@pytest.mark.parametrize(
    "why", ["other answers", "places count", "enough", "a single one", "other channels", "no picture"]
)
def test_what_stays_as_it_is(why):
    model = pooled(symmetric=why != "other answers")
    given = pictures({"enough": MOST + 1, "a single one": 1}.get(why, 8))
    if why == "places count":
        model = batched(load(net(ANYWHERE, b=(192, 4), inputs="float[1,3,8,8] x")))
    if why == "other channels":
        model = batched(
            load(net("g = GlobalMaxPool(x)\nf = Flatten(g)\ny = Gemm(f, b)", inputs="float[1,5,8,8] x", b=(5, 4)))
        )
        given = pictures(8, (5, 8, 8))
    if why == "no picture":
        model, given = batched(load(net("y = Gemm(x, b)", b=(6, 4), inputs="float[1,6] x"))), pictures(8, (6,))
    assert with_mirror_images(model, given) is given


def test_the_report_says_so():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    model = net(ALIKE, inputs="float[1,3,8,8] x", a=a + a[..., ::-1], b=(16, 4))
    result = graphprune.prune(model, target_macs=0.7, effort=0, round_to=1, calibration_data=pictures(10))
    assert any("10 real inputs and their mirror images" in note for note in result.report.notes)


def test_no_items_are_refused(tmp_path):
    np.savez(tmp_path / "none.npz", **pictures(0))
    model = net(ALIKE, inputs="float[1,3,8,8] x", a=(16, 3, 3, 3), b=(16, 4))
    with pytest.raises(UsageError, match="the calibration data have no items"):
        graphprune.prune(model, target_macs=0.7, effort=0, round_to=1, calibration_data=tmp_path / "none.npz")
