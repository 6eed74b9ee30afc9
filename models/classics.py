"""The nine classic image networks that come with the `onnx` package, with seeded random weights.

The package keeps them "light": most weights are ConstantOfShape nodes, all values 0.02. Here they become initializers
that keep activations at a steady size. There is no accuracy to measure: these graphs are for laws, shapes and timing.

`python -m models.classics --out DIR` writes all nine (1.2 GB), `--only squeezenet` one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.zoo import CACHE, ZooModel

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
PARAMETERS = {
    "alexnet": 60_965_224,
    "densenet121": 8_146_152,
    "inception_v1": 6_998_552,
    "inception_v2": 11_234_792,
    "resnet50": 25_610_152,
    "shufflenet": 1_420_152,
    "squeezenet": 1_235_496,
    "vgg19": 143_667_240,
    "zfnet512": 87_250_536,
}


def classic(name: str, seed: int = 0) -> onnx.ModelProto:
    """Graph `name` with weights drawn from `seed`; the input is [1, 3, 224, 224]."""
    model = onnx.load(next(LIGHT.glob(f"light_*{name}.onnx")))
    graph = model.graph
    given = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {key: tuple(tensor.dims) for key, tensor in given.items() if tensor.data_type == onnx.TensorProto.FLOAT}
    fillers = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    shapes |= {node.output[0]: tuple(numpy_helper.to_array(given[node.input[0]])) for node in fillers}
    for node in fillers:
        graph.node.remove(node)

    consumers = defaultdict(list)
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            consumers[tensor].append((node, position))

    rng = np.random.default_rng(seed)
    kept = [tensor for key, tensor in given.items() if key in consumers and key not in shapes]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for key in sorted(shapes.keys() & consumers.keys()):
        values = _draw(rng, shapes[key], key, consumers)
        # One large tensor at a time: VGG19 has a layer of 411 MB.
        graph.initializer.append(helper.make_tensor(key, onnx.TensorProto.FLOAT, values.shape, values.tobytes(), True))
        del values

    # Since IR version 4 an initializer need not be a graph input too; as one, it would count as changeable.
    model.ir_version = 8
    inputs = [value for value in graph.input if value.name not in given]
    del graph.input[:]
    graph.input.extend(inputs)
    return model


def _draw(rng: np.random.Generator, shape: tuple[int, ...], key: str, consumers: dict) -> np.ndarray:
    """Random values for parameter `key`, according to what the node that takes it does with it."""
    node, position = consumers[key][0]
    if node.op_type == "Unsqueeze":  # a scale or bias on its way to Mul or Add
        node, _ = consumers[node.output[0]][0]
    role = (node.op_type, position)
    if role == ("Conv", 1):
        return _normal(rng, shape, np.sqrt(2 / np.prod(shape[1:])))  # He et al. 2015
    if role == ("Gemm", 1):
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return _normal(rng, shape, np.sqrt(2 / shape[1 if transposed else 0]))
    if role == ("BatchNormalization", 4):
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    if role == ("BatchNormalization", 1) or node.op_type == "Mul":
        # A residual branch that ends with scale 1 would double the variance at every block.
        ends_branch = any(consumer.op_type == "Sum" for consumer, _ in consumers[node.output[0]])
        return (rng.uniform(0.8, 1.2, shape) * (0.3 if ends_branch else 1)).astype(np.float32)
    return _normal(rng, shape, 0.05)  # biases and means


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(scale)
    return values


def build(path: Path, name: str) -> None:
    """Write graph `name` to `path`."""
    onnx.save(classic(name), path)


ZOO = tuple(
    ZooModel(
        name=name,
        path=CACHE / f"{name}.onnx",
        build=partial(build, name=name),
        parameters=parameters,
        source="onnx package",
        licence="Apache-2.0",
    )
    for name, parameters in PARAMETERS.items()
)


def main() -> None:
    """Write the graphs to a folder."""
    parser = argparse.ArgumentParser(description="Write the classic graphs with random weights.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=PARAMETERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else PARAMETERS:
        path = options.out / f"{name}.onnx"
        onnx.save(classic(name, options.seed), path)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
