"""Models as files, and what has to be the same after a file was read and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper, parser

from graphprune.model import load, save
from graphprune.proof import seeded_inputs

SMALL = "t = Conv(x, a, c)\nu = Relu(t)\ny = Conv(u, b)"
WEIGHTS = {"a": (6, 3, 3, 3), "c": (6,), "b": (4, 6, 1, 1)}


def written(proto: ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


def written_outside(proto: ModelProto, path: Path, data: str = "w.bin") -> Path:
    copy = ModelProto()  # onnx takes the weights out of the model it saves
    copy.CopyFrom(proto)
    onnx.save_model(copy, str(path), save_as_external_data=True, location=data, size_threshold=0)
    return path


def round_trip(proto: ModelProto, folder: Path) -> ModelProto:
    save(load(proto), folder / "out.onnx")
    return onnx.load(folder / "out.onnx")


def runs_equal(a: ModelProto, b: ModelProto, **shapes: tuple[int, ...]) -> None:
    model = load(a, input_shapes=shapes or None)
    inputs = seeded_inputs(model)
    first, second = (ort.InferenceSession(m.SerializeToString()).run(None, inputs) for m in (a, b))
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
    assert any(np.any(x) for x in first)


def text(source: str, **weights: np.ndarray) -> ModelProto:
    """A model from text, with weights."""
    proto = parser.parse_model(source)
    proto.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    return proto
