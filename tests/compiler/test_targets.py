"""Every target that is no host: what it is, what its folder holds, and that its code computes what onnxruntime does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphprune.compiler import Artefact, compile_model, targets
from graphprune.compiler.targets import package
from graphprune.errors import CompileError, UsageError
from tests.compiler.oracle import check_elsewhere, model, need, need_target
from tests.compiler.test_compile import residual_net

EDGE = ["aarch64", "wasm32", "x86-64"]
RESNET = Path(__file__).parents[2] / "models" / "fashion_resnet20.onnx"
IMAGE = {"image": (1, 1, 28, 28)}
LIBRARY = ["libmodel.a", "manifest.json", "model.h", "model.so", "weights.bin"]
FILES = {
    "aarch64": LIBRARY,
    "wasm32": [
        "manifest.json",
        "model.d.mts",
        "model.mjs",
        "model.relaxed.threads.wasm",
        "model.relaxed.wasm",
        "model.threads.wasm",
        "model.wasm",
        "weights.bin",
    ],
    "x86-64": LIBRARY,
}


def resnet(folder: Path, target: str) -> Artefact:
    need(targets.ZIG)
    return compile_model(onnx.load(RESNET), folder, target, IMAGE)


@pytest.mark.parametrize("target", EDGE)
def test_the_folder_is_all_and_small(target: str, tmp_path: Path) -> None:
    artefact = resnet(tmp_path, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES[target]
    assert (tmp_path / artefact.manifest.library).stat().st_size < 100_000
    weights = 4 * 273_658
    assert weights * 0.95 < (tmp_path / "weights.bin").stat().st_size < weights * 1.05
    assert artefact.manifest.workspace_bytes < 500_000


@pytest.mark.parametrize("target", EDGE)
def test_a_trained_network_computes_what_onnxruntime_does(target: str, tmp_path: Path) -> None:
    need_target(target)
    check_elsewhere(onnx.load(RESNET), tmp_path, target, IMAGE, seeds=3)


SMALL = {
    "math functions": "a = Sin (x) b = Abs (a) c = Log (b) d = Pow (b, x) e = Erf (c) y = Add (d, e)",
    "softmax": "a = Exp (x) y = Softmax <axis = -1> (a)",
    "no multiple of the lanes": "a = Conv <pads = [1, 1, 1, 1]> (x, w) y = MaxPool <kernel_shape = [2, 2]> (a)",
}


@pytest.mark.parametrize("target", EDGE)
@pytest.mark.parametrize("case", SMALL)
def test_small_nets(target: str, case: str, tmp_path: Path) -> None:
    need_target(target)
    weights = {"w": (5, 3, 3, 3)} if "Conv" in SMALL[case] else {}
    proto = model(f"g (float[1,3,5,7] x) => (float y) {{ {SMALL[case]} }}", **weights)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    check_elsewhere(onnx.shape_inference.infer_shapes(proto), tmp_path, target)


@pytest.mark.parametrize("target", EDGE)
def test_integers_and_booleans_go_in_and_out(target: str, tmp_path: Path) -> None:
    need_target(target)
    proto = model(
        """g (int64[2,5] ids, bool[2,5] mask, float[7,3] table) => (float[2,5,3] y, int64[2,5] twice, bool[2,5] not) {
            y = Gather (table, ids)
            twice = Add (ids, ids)
            not = Not (mask)
        }"""
    )
    check_elsewhere(proto, tmp_path, target, seeds=2)


@pytest.mark.parametrize("target", ["aarch64", "wasm32"])
def test_a_batch_of_two(target: str, tmp_path: Path) -> None:
    need_target(target)
    check_elsewhere(residual_net(1, 8), tmp_path, target, {"x": (2, 3, 32, 32)})


@pytest.mark.slow
@pytest.mark.parametrize("target", EDGE)
@pytest.mark.parametrize("name", ["fashion_densenet", "fashion_mobilenet"])
def test_other_trained_networks(name: str, target: str, tmp_path: Path) -> None:
    need_target(target)
    check_elsewhere(onnx.load(RESNET.with_name(f"{name}.onnx")), tmp_path, target, IMAGE, seeds=3)


def test_a_target_must_be_known() -> None:
    with pytest.raises(CompileError, match="unknown target 'vax'") as caught:
        targets.resolve_all(["vax"])
    assert "wasm32" in caught.value.hint


def test_two_targets_may_not_share_a_folder() -> None:
    with pytest.raises(UsageError, match="'wasm32' and 'wasm32' both go to the folder wasm32"):
        targets.resolve_all(["host", "wasm32", "wasm32"])


def test_without_zig_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CompileError, match="target 'wasm32' needs ziglang") as caught:
        targets.resolve_all(["wasm32"])
    assert "graphprune[edge]" in caught.value.hint


def test_a_package_within_one_that_is_not_installed_is_only_missing() -> None:
    assert package("no_such_package.part") is None
    assert package("numpy.linalg") is not None
