"""The error of the whole: zero for the same model, one for a model that answers nothing, in between what was cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphprune
from graphprune.errors import UsageError
from graphprune.fidelity import ITEMS, measure
from graphprune.model import load

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"


def scaled(factor: float, kind: str = "float"):
    """y = factor · x, and z = x ≥ 0 where ``kind`` is bool."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
net (float[2,4] x) => ({kind}[2,4] y) <float[1] w = {{{factor}}}> {{ """
    return load(
        onnx.parser.parse_model(text + ("y = Mul(x, w) }" if kind == "float" else "m = Mul(x, w)  y = Less(m, w) }"))
    )


@pytest.mark.parametrize(
    ("factor", "error", "cosine"), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.5, 0.5, 1.0), (-1.0, 2.0, -1.0)]
)
def test_relative_error_and_cosine(factor, error, cosine):
    found = measure(scaled(1.0), scaled(factor))
    assert found.error == pytest.approx(error, abs=1e-7)
    assert found.cosine == pytest.approx(cosine, abs=1e-7)
    assert found.outputs == {"y": found.error}
    assert (found.inputs, found.source) == (ITEMS, "made-up inputs")


def test_whole_numbers_and_booleans_count_what_differs():
    given = {"x": np.array([[-1, 1, 3, 5], [-1, 1, 3, 5]], np.float32)}
    found = measure(scaled(1.0, "bool"), scaled(2.0, "bool"), given=given)  # x < 1 against 2 x < 2: the same
    assert found.error == 0
    found = measure(scaled(2.0, "bool"), scaled(-4.0, "bool"), given=given)  # TFFF against x > 1: FFTT
    assert found.error == pytest.approx(np.sqrt(3 / 4))
    assert (found.inputs, found.source) == (1, "held-out data")


def test_what_is_not_finite_is_infinitely_wrong():
    assert measure(scaled(1.0), scaled(float("1e38")), given={"x": np.full((2, 4), 1e3, np.float32)}).error == np.inf


def test_data_that_do_not_fit():
    with pytest.raises(UsageError, match="'x'"):
        measure(scaled(1.0), scaled(1.0), given={"image": np.zeros((2, 4), np.float32)})
    with pytest.raises(UsageError, match="fewer items"):
        measure(scaled(1.0), scaled(1.0), given={"x": np.zeros((1, 4), np.float32)})


def test_a_run_measures_it_and_real_inputs_take_the_place_of_made_up_ones():
    images = np.load(RESNET.with_name("fashion_test_2000.npz"))["images"][:60, None].astype(np.float32) / 255
    data = {"image": images}
    errors = {}
    for preset in ("obs", "magnitude"):
        report = graphprune.prune(RESNET, target_macs=0.6, preset=preset, held_out=data, effort=0).report
        assert report.fidelity is not None
        assert (report.fidelity.inputs, report.fidelity.source) == (60, "held-out data")
        errors[preset] = report.fidelity.error
    assert 0.01 < errors["obs"] < 0.3 < errors["magnitude"] < 1.5
    same = graphprune.prune(RESNET, ratio=0, calibration_data=data).report.fidelity
    assert same is not None
    assert same.error < 1e-4
    assert same.source == "calibration data"
