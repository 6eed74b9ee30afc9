"""MobileNetV1 and ResNet-18 with seeded random weights, for timing: the two networks that every runtime is timed on.

Convolutions come with biases and without BatchNormalization, as exporters leave them (Howard et al. 2017; He et al.
2016). Weights keep activations at a steady size; there is no accuracy to measure.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.zoo import CACHE, ZooModel


class _Net:
    """A graph that grows node by node from the input `image`, [1, 3, 224, 224]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def weight(self, values: np.ndarray) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, shape: tuple[int, ...], stride: int = 1, groups: int = 1, gain: float = 2.0) -> str:
        """A convolution with filters of `shape` and a bias; `gain` 2 is what a Relu after it takes away."""
        filters = self.weight(self.rng.normal(0, np.sqrt(gain / np.prod(shape[1:])), shape))
        bias = self.weight(self.rng.normal(0, 0.05, shape[0]))
        pads = [shape[2] // 2] * 4
        return self.node("Conv", x, filters, bias, strides=[stride, stride], pads=pads, group=groups)

    def classify(self, x: str, width: int) -> onnx.ModelProto:
        """The model, with a mean over all pixels and a last matrix product to 1000 classes."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        matrix, bias = self.weight(self.rng.normal(0, width**-0.5, (width, 1000))), self.weight(np.zeros(1000))
        self.nodes.append(helper.make_node("Gemm", [flat, matrix, bias], ["logits"], "classifier"))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])
        graph = helper.make_graph(self.nodes, "plain", [image], [logits], self.weights)
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def mobilenet_v1(seed: int = 0) -> onnx.ModelProto:
    """MobileNetV1 at width 1: 569 million multiply-accumulates."""
    net = _Net(seed)

    def clipped(x: str) -> str:
        return net.node("Clip", x, low, high)

    low, high = net.weight(np.float32(0)), net.weight(np.float32(6))
    x, width = clipped(net.conv("image", (32, 3, 3, 3), stride=2)), 32
    stages = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for filters, stride in stages:
        x = clipped(net.conv(x, (width, 1, 3, 3), stride, groups=width))
        x, width = clipped(net.conv(x, (filters, width, 1, 1))), filters
    return net.classify(x, width)


def resnet18(seed: int = 0) -> onnx.ModelProto:
    """ResNet-18: 1.81 billion multiply-accumulates."""
    net = _Net(seed)
    x = net.node("Relu", net.conv("image", (64, 3, 7, 7), stride=2))
    x, width = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for filters, stride in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
        branch = net.node("Relu", net.conv(x, (filters, width, 3, 3), stride))
        branch = net.conv(branch, (filters, filters, 3, 3), gain=0.1)
        if (filters, stride) != (width, 1):
            x = net.conv(x, (filters, width, 1, 1), stride, gain=1.0)
        x, width = net.node("Relu", net.node("Add", branch, x)), filters
    return net.classify(x, width)


def _build(path: Path, name: str) -> None:
    onnx.save({"mobilenet_v1": mobilenet_v1, "resnet18": resnet18}[name](), path)


ZOO = tuple(
    ZooModel(
        name=name,
        path=CACHE / f"{name}.onnx",
        build=partial(_build, name=name),
        parameters=parameters,
        source="random weights",
        licence="Apache-2.0",
    )
    for name, parameters in {"mobilenet_v1": 4_221_034, "resnet18": 11_684_712}.items()
)
