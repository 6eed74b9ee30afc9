"""The target `webgpu`: WGSL, the plan of launches, and what JavaScript makes of them in Chromium, on SwiftShader."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphprune import chromium, execute
from graphprune.compiler import compile_model
from graphprune.errors import CompileError
from tests.compiler.oracle import assert_same, check_elsewhere, feeds, model, need_target, reference
from tests.compiler.test_cuda import NETS, SHAPES

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"
INTEGERS = model(
    """g (int64[2,6] i, bool[2,6] keep, float[2,6] x) => (int64[2] best, int64[2,6] n, bool[2,6] more, float[2,6,4] y) {
        a = Gather (t, i)
        f = Cast <to = 1> (keep)
        e = Unsqueeze (f, last)
        y = Mul (a, e)
        n = Where (keep, i, minus)
        more = Greater (n, i)
        best = ArgMax <axis = 1, keepdims = 0> (x)
    }""",
    t=(9, 4),
    last=np.array([2]),
    minus=np.array(-70000),
)
IN_WGSL = {**NETS, "integers": INTEGERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("webgpu")
    compile_model(NETS["product"], made, "webgpu")
    return made


@pytest.mark.parametrize("name", IN_WGSL)
def test_kernels_are_wgsl_and_fit_what_every_device_has(name: str, tmp_path: Path) -> None:
    artefact = compile_model(IN_WGSL[name], tmp_path, "webgpu", SHAPES.get(name))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "manifest.json",
        "model.d.mts",
        "model.mjs",
        "program.json",
        "weights.bin",
    ]
    program = json.loads((tmp_path / "program.json").read_text())
    assert program["identity"] == artefact.manifest.identity
    assert {name for name, _, _ in program["launches"]} == set(program["kernels"])
    for kernel, places, grid in program["launches"]:
        code = program["kernels"][kernel]
        assert set(re.findall(r"array<(\w+)", code)) <= {"f32", "i32", "u32"}
        threads = re.search(r"@workgroup_size\((\d+), (\d+), (\d+)\)", code)
        assert threads
        assert np.prod([int(size) for size in threads.groups()]) <= 256
        assert sum(4 * int(n) for n in re.findall(r"var<workgroup> \w+ : array<f32, (\d+)>", code)) <= 16 * 1024
        assert code.count("var<storage") == len(places) <= 8
        assert max(grid) <= 65535
        for place in places:
            room, offset, size = program["tensors"][place]
            assert offset % 256 == 0
            assert offset + size <= [artefact.manifest.weights_bytes, *program["rooms"]][room]
        access = re.findall(r"var<storage, (read\w*)>", code)
        written, read = (
            {program["tensors"][place][0] for place, kind in zip(places, access, strict=True) if kind == wanted}
            for wanted in ("read_write", "read")
        )
        assert not written & read  # WebGPU forbids it


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("g (float16[4] x) => (float16[4] y) { y = Relu (x) }", "input 'x' has type float16, which WebGPU has none of"),
        (
            "g (float[4] x) => (float[4] y) { [wide] d = Cast <to = 11> (x) e = Sin (d) y = Cast <to = 1> (e) }",
            "node 'wide': Cast gives a value that has type float64, which WebGPU has none of",
        ),
        (
            "g (int64[4] x) => (int64[4] y) { y = Add (x, c) }",
            "a constant of type int64 does not fit 32 bits, and WebGPU has no more",
        ),
        ("g (int64[4] x) => (int64 y) { y = ReduceMax <keepdims = 0> (x) }", "does not fit the 32 bits of WebGPU"),
    ],
)
def test_types_that_webgpu_lacks_are_refused(text: str, says: str, tmp_path: Path) -> None:
    weights = {"c": np.arange(4) << 31} if "c)" in text else {}
    with pytest.raises(CompileError, match=says):
        compile_model(model(text, **weights), tmp_path, "webgpu")


def test_a_browser_computes_what_onnxruntime_does(folder: Path) -> None:
    need_target("webgpu")
    run = execute.execution(folder).run
    assert run is not None
    assert_same(run(feeds(NETS["product"])), reference(NETS["product"], feeds(NETS["product"])))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in IN_WGSL if n != "product"])
def test_other_nets_in_a_browser(name: str, tmp_path: Path) -> None:
    need_target("webgpu")
    check_elsewhere(IN_WGSL[name], tmp_path, "webgpu", SHAPES.get(name))


@pytest.mark.slow
def test_an_integer_of_more_than_32_bits_is_refused(tmp_path: Path) -> None:
    need_target("webgpu")
    compile_model(NETS["tokens"], tmp_path, "webgpu")
    with pytest.raises(CompileError, match='input "i" holds 4294967297, and a graphics processor has 32 bits'):
        execute.in_chromium(tmp_path, {"i": np.full((1, 6), 2**32 + 1)})


@pytest.mark.slow
def test_a_trained_network_in_a_browser(tmp_path: Path) -> None:
    need_target("webgpu")
    check_elsewhere(onnx.load(RESNET), tmp_path, "webgpu", {"image": (1, 1, 28, 28)})


@pytest.mark.slow
def test_weights_can_be_inside(tmp_path: Path) -> None:
    need_target("webgpu")
    compile_model(NETS["product"], tmp_path, "webgpu", embed_weights=True)
    assert not (tmp_path / "weights.bin").exists()
    found = execute.in_chromium(tmp_path, feeds(NETS["product"]))
    assert_same(found, reference(NETS["product"], feeds(NETS["product"])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("weights.bin", lambda data: data[:-1], "weights.bin has [0-9]+ bytes, not [0-9]+"),
        ("program.json", lambda data: data[:-9], "program.json is truncated or no JSON"),
        (
            "program.json",
            lambda data: data.replace(b'"identity": "', b'"identity": "0'),
            "not the one of manifest.json",
        ),
        ("program.json", lambda data: re.sub(rb'"rooms": \[\d+', b'"rooms": [8000000000000', data), "out of memory"),
        ("program.json", lambda data: data.replace(b"@compute", b"@nothing"), "the device refuses the model"),
        ("model.mjs", lambda data: data.replace(b"navigator?.gpu?", b"navigator?.none?"), "lacks WebGPU"),
    ],
)
def test_what_goes_wrong_is_said(folder: Path, tmp_path: Path, file: str, change: object, says: str) -> None:
    need_target("webgpu")
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / file).write_bytes(change((folder / file).read_bytes()))  # type: ignore[operator]
    with pytest.raises(CompileError, match=says):
        execute.in_chromium(broken, feeds(NETS["product"]))


@pytest.mark.slow
def test_a_wrong_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    need_target("webgpu")
    np.zeros(3, np.float32).tofile(tmp_path / "input_0")
    with pytest.raises(CompileError, match='input "x" has 3 values, the model takes 35'):
        chromium.drive(folder, tmp_path)
