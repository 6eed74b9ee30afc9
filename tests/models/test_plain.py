"""The two networks every runtime is timed on."""

import numpy as np
import onnx
import onnxruntime
import pytest

from models.plain import ZOO, mobilenet_v1, resnet18


@pytest.mark.parametrize("build", [mobilenet_v1, resnet18])
def test_activations_neither_vanish_nor_explode(build):
    model = build()
    onnx.checker.check_model(model, full_check=True)
    floats = model.graph.initializer
    assert sum(np.prod(tensor.dims) for tensor in floats) in [entry.parameters for entry in ZOO]
    layers = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    model.graph.output.extend(onnx.ValueInfoProto(name=layer) for layer in layers if layer != "logits")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    for values in session.run(layers, {"image": image}):
        assert 0.1 < np.sqrt(np.square(values).mean()) < 100
