"""An ONNX convolutional network as a file for LiteRT: `python benchmarks/tflite.py model.onnx model.tflite`.

Runs in a Python that has tensorflow and onnx. Images come channels last, as LiteRT wants them; paddings that are not
TensorFlow's own become nodes of their own, as its converter writes them for any such network.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import tensorflow as tf
from onnx import helper, numpy_helper


def padded(x: Any, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], fill: float) -> tuple[Any, str]:
    """`x` [n, h, w, c], padded if need be, and what TensorFlow calls the rest of the padding."""
    needs = []
    for size, k, s, before, after in zip(x.shape[1:3], kernel, strides, pads[:2], pads[2:], strict=True):
        whole = max((-(-size // s) - 1) * s + k - size, 0)
        needs.append((before, after) == (whole // 2, whole - whole // 2))
    if all(needs):
        return x, "SAME"
    if any(pads):
        x = tf.pad(x, [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], constant_values=fill)
    return x, "VALID"


def computed(node: onnx.NodeProto, x: Any, rest: list[Any], margins: list[int] | None = None) -> Any:
    """What `node` gives for `x`, channels last, widened by `margins`; `rest` are its other inputs, as in ONNX."""
    a = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    strides, pads = a.get("strides", [1, 1]), a.get("pads", [0, 0, 0, 0])
    if margins and node.op_type != "Conv":
        raise SystemExit(f"node {node.name!r}: only a Conv may come after a Pad")
    if node.op_type == "Conv":
        pads = [own + wider for own, wider in zip(pads, margins or [0] * 4, strict=True)]
        weight, *bias = rest
        x, padding = padded(x, weight.shape[2:], strides, pads, 0.0)
        if a.get("group", 1) == 1:
            y = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), strides, padding)
        else:  # depthwise
            y = tf.nn.depthwise_conv2d(x, weight.transpose(2, 3, 0, 1), [1, *strides, 1], padding)
        return tf.nn.bias_add(y, bias[0]) if bias else y
    if node.op_type == "MaxPool":
        x, padding = padded(x, a["kernel_shape"], strides, pads, -3e38)
        return tf.nn.max_pool2d(x, a["kernel_shape"], strides, padding)
    if node.op_type in ("GlobalAveragePool", "ReduceMean"):
        return tf.reduce_mean(x, [1, 2], keepdims=bool(a.get("keepdims", 1)))
    if node.op_type in ("Flatten", "Reshape"):
        return tf.reshape(x, [x.shape[0], -1])
    if node.op_type == "Gemm":
        weight, *bias = rest
        return tf.matmul(x, weight, transpose_b=bool(a.get("transB"))) + (bias[0] if bias else 0.0)
    if node.op_type == "Clip" and [float(v) for v in rest] == [0.0, 6.0]:
        return tf.nn.relu6(x)
    simple = {"Relu": tf.nn.relu, "Identity": tf.identity, "Add": lambda x: x + rest[0]}
    if node.op_type not in simple:
        raise SystemExit(f"node {node.name!r}: {node.op_type} has no form here")
    return simple[node.op_type](x)


def main(source: Path, target: Path) -> None:
    """Convert one file."""
    graph = onnx.load(source).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (image,) = (value for value in graph.input if value.name not in constants)
    n, c, h, w = (d.dim_value or 1 for d in image.type.tensor_type.shape.dim)

    @tf.function(input_signature=[tf.TensorSpec([n, h, w, c], tf.float32)])
    def network(x: Any) -> Any:
        values = {**constants, image.name: x}
        margins: dict[str, list[int]] = {}  # of what a Pad widens for a convolution that takes it
        for node in graph.node:
            first, *rest = (values[name] for name in node.input if name)
            if node.op_type == "Pad":  # [n, c, h, w] before, then after
                margins[node.output[0]] = [int(rest[0][i]) for i in (2, 3, 6, 7)]
                values[node.output[0]] = first
            else:
                values[node.output[0]] = computed(node, first, rest, margins.get(node.input[0]))
        return values[graph.output[0].name]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    target.write_bytes(converter.convert())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
