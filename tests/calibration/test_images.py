"""Folders of pictures: layout, size, scale asked for and scale found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graphprune
from graphprune.calibration.images import USUAL, Scale, read_images, scale_of
from graphprune.calibration.noise import leaves
from graphprune.errors import UsageError
from graphprune.model import load
from tests.law import net

NORMALISED = "t = Conv(x, a)\nu = BatchNormalization(t, g, b, m, v)\nr = Relu(u)\ny = Conv(r, c)"


def pictures(folder: Path, count: int = 12) -> np.ndarray:
    """Coloured pictures on the disk, and their pixels of 0 to 1: [count, 20, 24, 3]."""
    rng = np.random.default_rng(0)
    pixels = np.clip(0.5 + 0.25 * leaves((count, 3, 20, 24), rng), 0, 1).transpose(0, 2, 3, 1)
    pixels = (pixels * 255).round().astype(np.uint8)
    for k, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{k:02}.png")
    return pixels / 255


def knowing(scale: Scale, pixels: np.ndarray):
    """A network whose BatchNormalization remembers pictures at a scale."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((8, 3, 1, 1)).astype(np.float32)
    x = (pixels - np.array(scale.mean)) / np.array(scale.std)
    t = x @ a[:, :, 0, 0].T
    g, b = rng.uniform(0.5, 2, 8), rng.standard_normal(8)
    known = {"g": g, "b": b, "m": t.mean((0, 1, 2)), "v": t.var((0, 1, 2))}
    weights = {name: values.astype(np.float32) for name, values in known.items()}
    return load(net(NORMALISED, inputs="float[N,3,16,16] x", a=a, c=(4, 8, 1, 1), **weights))


@pytest.mark.parametrize("name", USUAL)
def test_the_scale_is_the_one_the_network_was_trained_with(name, tmp_path):
    pixels = pictures(tmp_path)
    inputs, scale = read_images(tmp_path, knowing(USUAL[name], pixels))
    assert scale == USUAL[name]
    assert inputs["x"].shape == (12, 3, 16, 16)
    assert inputs["x"].dtype == np.float32
    expected = (pixels.mean((0, 1, 2)) - np.array(scale.mean)) / np.array(scale.std)
    assert inputs["x"].mean((0, 2, 3)) == pytest.approx(expected, abs=0.2 / max(scale.std[0], 0.2))


def test_a_scale_that_is_asked_for_is_taken(tmp_path):
    pixels = pictures(tmp_path)
    model = load(net("y = Conv(x, a)", inputs="float[1,3,20,24] x", a=(4, 3, 1, 1)))
    inputs, _ = read_images(tmp_path, model, scale_of((0.5, 0.4, 0.3), (0.2,), None))
    assert np.moveaxis(inputs["x"], 1, -1) == pytest.approx((pixels - [0.5, 0.4, 0.3]) / 0.2, abs=1e-5)
    inputs, _ = read_images(tmp_path, model, scale_of(None, None, (-1.0, 1.0)))
    assert np.moveaxis(inputs["x"], 1, -1) == pytest.approx(2 * pixels - 1, abs=1e-5)


def test_channels_may_come_last_and_be_grey(tmp_path):
    pixels = pictures(tmp_path)
    model = load(net("t = Transpose<perm=[0,3,1,2]>(x)\ny = Conv(t, a)", inputs="float[1,20,24,1] x", a=(4, 1, 1, 1)))
    inputs, scale = read_images(tmp_path, model)
    assert scale == USUAL["0 to 1"]  # nothing tells otherwise
    assert inputs["x"].shape == (12, 20, 24, 1)
    assert inputs["x"][..., 0] == pytest.approx(pixels @ [0.299, 0.587, 0.114], abs=0.01)


def test_what_is_transparent_is_white(tmp_path):
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    model = load(net("y = Conv(x, a)", inputs="float[1,3,8,8] x", a=(4, 3, 1, 1)))
    assert (read_images(tmp_path, model)[0]["x"] == 1).all()


def test_folders_and_options_that_make_no_sense(tmp_path):
    model = load(net("y = Conv(x, a)", inputs="float[1,3,8,8] x", a=(4, 3, 1, 1)))
    with pytest.raises(UsageError, match="holds no pictures"):
        read_images(tmp_path, model)
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"a\.png cannot be read"):
        read_images(tmp_path, model)
    with pytest.raises(UsageError, match="one input for images"):
        read_images(tmp_path, load(net("y = MatMul(x, a)", inputs="float[1,8] x", a=(8, 4))))
    for mean, std, spread in [((0.5,), None, (0.0, 1.0)), (None, (0.0,), None), ((1.0, 2.0), (1.0, 1.0, 1.0), None)]:
        with pytest.raises(UsageError):
            scale_of(mean, std, spread)


def test_a_model_is_pruned_with_a_folder(tmp_path):
    pixels = pictures(tmp_path)
    result = graphprune.prune(knowing(USUAL["-1 to 1"], pixels), ratio=0.5, calibration_data=tmp_path, round_to=1)
    assert any("12 pictures were scaled from -1 to 1" in note for note in result.report.notes)
    assert any("12 real inputs" in note for note in result.report.notes)
