"""The classic graphs with random weights."""

import numpy as np
import onnx
import onnxruntime
import pytest

from models.classics import PARAMETERS, classic


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "densenet121"])
def test_activations_neither_vanish_nor_explode(name):
    model = classic(name)
    onnx.checker.check_model(model)
    layers = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    model.graph.output.extend(onnx.ValueInfoProto(name=layer) for layer in layers)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    for values in session.run(layers, {session.get_inputs()[0].name: image}):
        assert 0.1 < np.sqrt(np.square(values).mean()) < 100


def test_only_the_image_is_an_input_and_every_float_is_counted():
    model = classic("squeezenet")
    (image,) = model.graph.input
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 3, 224, 224]
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert sum(np.prod(tensor.dims) for tensor in floats) == PARAMETERS["squeezenet"]
    assert not [node for node in model.graph.node if node.op_type == "ConstantOfShape"]


def test_the_seed_decides_the_weights():
    assert classic("squeezenet", seed=1) == classic("squeezenet", seed=1)
    assert classic("squeezenet", seed=1) != classic("squeezenet", seed=2)
