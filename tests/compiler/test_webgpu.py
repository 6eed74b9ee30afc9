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
from tests.compiler.oracle import assert_same, check_elsewhere, feeds, need_target, reference
from tests.compiler.test_cuda import NETS, SHAPES

RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"
IN_WGSL = [name for name in NETS if name != "tokens"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("webgpu")
    compile_model(NETS["product"], made, "webgpu")
    return made


@pytest.mark.parametrize("name", IN_WGSL)
def test_kernels_are_wgsl_and_fit_what_every_device_has(name: str, tmp_path: Path) -> None:
    artefact = compile_model(NETS[name], tmp_path, "webgpu", SHAPES.get(name))
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


def test_types_that_wgsl_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="uses int64, which WebGPU's storage has none of"):
        compile_model(NETS["tokens"], tmp_path, "webgpu")


def test_a_browser_computes_what_onnxruntime_does(folder: Path) -> None:
    need_target("webgpu")
    run = execute.execution(folder).run
    assert run is not None
    assert_same(run(feeds(NETS["product"])), reference(NETS["product"], feeds(NETS["product"])))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in IN_WGSL if n != "product"])
def test_other_nets_in_a_browser(name: str, tmp_path: Path) -> None:
    need_target("webgpu")
    check_elsewhere(NETS[name], tmp_path, "webgpu", SHAPES.get(name))


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
