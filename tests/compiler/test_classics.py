"""The classic image networks of onnx's own test data, with random weights, through the whole compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import numpy_helper

from tests.compiler.oracle import check, kinds

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("*.onnx"))


def with_random_weights(name: str) -> onnx.ModelProto:
    """The network with its ConstantOfShape weights replaced by random ones that keep activations in range."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    rng = np.random.default_rng(0)
    shapes = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    role = {name: (node.op_type, i) for node in proto.graph.node for i, name in enumerate(node.input)}
    kept = []
    for node in proto.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape, (operator, position) = shapes[node.input[0]], role.get(node.output[0], ("", 0))
        if operator == "BatchNormalization" and position in (1, 4):  # scale and variance
            value = rng.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:  # half of He's deviation where sums of branches would grow, small logits at the end
            gain = 0.05 if operator == "Gemm" and shape[0] == 1000 else 0.7
            value = rng.normal(0, gain * np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            value = rng.normal(0, 0.1, shape)
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), node.output[0]))
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    weights = [i for i in proto.graph.initializer if i.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights)
    inputs = [
        v for v in proto.graph.input if v.name not in {i.name for i in proto.graph.initializer} and v.name in used
    ]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "squeezenet" else pytest.mark.slow) for name in NAMES]
)
def test_classic(name: str, tmp_path: Path) -> None:
    proto = with_random_weights(name)
    proto.ir_version = 8  # initializers need no longer be inputs
    artefact = check(proto, tmp_path)
    windows = sum(node.op_type in ("Conv", "Gemm", "MaxPool") for node in proto.graph.node)
    assert kinds(artefact)["ours"] >= windows
