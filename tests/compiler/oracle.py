"""Compile a model, run it next to onnxruntime and compare: what the tests of the compiler share."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from graphprune import execute, runtime
from graphprune.compiler import Artefact, compile_model, targets
from graphprune.compiler.manifest import Kernel

RTOL = 1e-4  # of the largest output value: sums of float32 in another order


def model(text: str, seed: int = 0, **weights: tuple[int, ...] | np.ndarray | list | float) -> onnx.ModelProto:
    """A model from ONNX text; a weight given as a shape gets random values scaled to keep activations near one."""
    rng = np.random.default_rng(seed)
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, value in weights.items():
        if isinstance(value, tuple):
            value = rng.normal(0, 1 / np.sqrt(max(np.prod(value[1:]), 1)), value).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return proto


def thinned(proto: onnx.ModelProto, share: float, block: int, seed: int = 0) -> onnx.ModelProto:
    """The model with a share of its weights zero, in blocks of output channels."""
    rng = np.random.default_rng(seed)
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    weight = result.graph.initializer[0]
    values = numpy_helper.to_array(weight)
    rows = values.reshape(len(values), -1)
    kept = np.repeat(rng.random((-(-len(rows) // block), rows.shape[1])) >= share, block, 0)[: len(rows)]
    kept[0, 0] = True  # something must come out
    weight.CopyFrom(numpy_helper.from_array((rows * kept).reshape(values.shape), weight.name))
    return result


def feeds(
    proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 1
) -> dict[str, np.ndarray]:
    """Random inputs of the model's shapes and dtypes."""
    rng = np.random.default_rng(seed)
    values = {}
    initializers = {i.name for i in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name in initializers:
            continue
        tensor = value.type.tensor_type
        shape = (shapes or {}).get(value.name) or tuple(d.dim_value for d in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        array = rng.normal(size=shape) if np.issubdtype(dtype, np.floating) else rng.integers(0, 2, shape)
        values[value.name] = array.astype(dtype)
    return values


def reference(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in proto.graph.output], session.run(None, inputs), strict=True))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Same names, shapes and dtypes, and values within RTOL of the largest; integers exactly."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        if np.issubdtype(value.dtype, np.floating):
            assert np.abs(value).max() > 1e-6, "a vanished activation would prove nothing"
            assert np.abs(found[name] - value).max() <= RTOL * np.abs(value).max(), name
        else:
            np.testing.assert_array_equal(found[name], value)


def check(
    proto: onnx.ModelProto, folder: Path, shapes: dict[str, tuple[int, ...]] | None = None, target: str = "host"
) -> Artefact:
    """Compile `proto` and require that it computes what onnxruntime does."""
    onnx.checker.check_model(proto)
    artefact = compile_model(proto, folder, target, shapes)
    inputs = feeds(proto, shapes)
    expected = reference(proto, inputs)
    compiled = runtime.load(folder)
    assert_same(compiled(inputs), expected)
    assert_same(compiled(inputs), expected)  # nothing of the first run may be left in the workspace
    return artefact


def kernels(artefact: Artefact) -> list[Kernel]:
    """The kernels called, but for those that only prepare what another one takes."""
    return [kernel for kernel in artefact.manifest.kernels if not kernel.name.startswith("prepare")]


def kinds(artefact: Artefact) -> dict[str, int]:
    """How many of them are ours and how many fall back."""
    found = [kernel.kind for kernel in kernels(artefact)]
    return {kind: found.count(kind) for kind in ("ours", "fallback") if kind in found}


def need(*tools: str) -> None:
    """Skip the test where a program or ziglang is not installed, and say which."""
    for tool in tools:
        found = importlib.util.find_spec(tool) if tool == targets.ZIG else shutil.which(tool)
        if not found:
            pytest.skip(f"needs {tool}, which is not installed")


def need_target(name: str) -> None:
    """Skip the test where `name` cannot be compiled for or its artefacts cannot be run, and say why."""
    info = next(t for t in execute.survey() if t.name == name)
    if lacks := [*info.missing, *info.runner_missing]:
        pytest.skip(f"{name} needs {' and '.join(lacks)}, not installed")


def check_elsewhere(
    proto: onnx.ModelProto, folder: Path, target: str, shapes: dict[str, tuple[int, ...]] | None = None, seeds: int = 1
) -> Artefact:
    """Compile `proto` for `target` and require that what runs it here computes what onnxruntime does."""
    artefact = compile_model(proto, folder, target, shapes)
    run = execute.execution(folder).run
    assert run is not None
    for seed in range(seeds):
        inputs = feeds(proto, shapes, seed)
        assert_same(run(inputs), reference(proto, inputs))
    return artefact
