"""The committed networks trained on Fashion-MNIST."""

from collections import Counter

import onnx
import pytest

from models import find
from models.zoo import MissingError, onnxruntime_run

NAMES = ["fashion_resnet20", "fashion_mobilenet", "fashion_densenet", "fashion_vgg", "fashion_vit"]


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_the_committed_images_is_the_documented_one(name):
    model = find(name)
    (score,) = model.evaluate(onnxruntime_run(model.path), model.items())
    assert score.count == 2000
    assert round(100 * score.accuracy, 2) == model.baseline[0]


def test_resnet20_keeps_batchnorm_and_a_symbolic_batch():
    model = onnx.load(find("fashion_resnet20").path)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Conv"] == operators["BatchNormalization"] == 21
    assert operators["Add"] == 9
    (image,) = model.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_mobilenet_is_depthwise():
    model = onnx.load(find("fashion_mobilenet").path)
    groups = [onnx.helper.get_node_attr_value(node, "group") for node in model.graph.node if node.op_type == "Conv"]
    assert sum(group > 1 for group in groups) == 6


def test_densenet_concatenates():
    operators = [node.op_type for node in onnx.load(find("fashion_densenet").path).graph.node]
    assert operators.count("Concat") == 12


def test_the_vision_transformer_has_attention_and_no_batchnorm():
    operators = Counter(node.op_type for node in onnx.load(find("fashion_vit").path).graph.node)
    assert operators["Softmax"] == 6
    assert operators["LayerNormalization"] == 13
    assert "BatchNormalization" not in operators


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_model_is_valid_and_small(name):
    path = find(name).path
    onnx.checker.check_model(path, full_check=True)
    assert path.stat().st_size < 1.4e6


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_all_test_images(name):
    model = find(name)
    try:
        items = model.items("test")
    except MissingError as error:
        pytest.skip(str(error))
    (score,) = model.evaluate(onnxruntime_run(model.path), items)
    assert score.count == 10_000
    assert abs(100 * score.accuracy - model.baseline[0]) < 1
