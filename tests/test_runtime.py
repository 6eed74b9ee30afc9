"""Running a compiled model: without TVM, with clear errors, from several threads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from graphprune import runtime
from graphprune.compiler import compile_model
from graphprune.compiler.manifest import Manifest
from graphprune.compiler.targets import machine
from graphprune.errors import InvalidModelError, UsageError
from tests.compiler.oracle import feeds, model, reference


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compile folder with one artefact, for this machine: y = relu(x · w)."""
    folder = tmp_path_factory.mktemp("net.graphprune")
    proto = model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=WEIGHTS)
    compile_model(proto, folder / machine())
    return folder


WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
X = np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)
Y = np.maximum(X @ WEIGHTS, 0)


def test_both_the_folder_and_its_parent_load(parent: Path) -> None:
    for folder in (parent, str(parent / machine())):
        np.testing.assert_allclose(runtime.load(folder)({"x": X})["y"], Y, rtol=1e-6)


def test_a_profile_has_the_seconds_of_every_kernel(parent: Path) -> None:
    library = runtime.load(parent)
    seconds = library.profile({"x": X}, runs=5)
    assert seconds.shape == (len(library.manifest.kernels),)
    assert (seconds >= 0).all()
    assert seconds.sum() < 1
    with pytest.raises(UsageError, match="missing"):
        library.profile({})


def test_running_needs_no_tvm(parent: Path) -> None:
    program = f"""
import sys
for name in ("tvm", "tvm_ffi", "onnx", "onnxruntime"):
    sys.modules[name] = None  # importing it now fails
import numpy as np
from graphprune import runtime
y = runtime.load({str(parent)!r})({{"x": np.array({X.tolist()}, np.float32)}})["y"]
print(y.tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(eval(done.stdout), Y, rtol=1e-6)


def test_importing_the_compiler_does_not_import_tvm() -> None:
    program = "import sys, graphprune.compiler, graphprune.runtime; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": X, "z": X}, "the model has no input 'z'"),
        ({"x": X.astype(np.float64)}, "input 'x' has dtype float64, the model takes float32"),
        ({"x": X[:1]}, r"input 'x' has shape \(1, 3\), the model takes \(2, 3\)"),
    ],
)
def test_wrong_inputs_are_named(parent: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runtime.load(parent)(inputs)


def test_any_memory_layout_will_do(parent: Path) -> None:
    compiled = runtime.load(parent)
    np.testing.assert_allclose(compiled({"x": np.asfortranarray(X)})["y"], Y, rtol=1e-6)
    padded = np.zeros((2, 7), np.float32)
    padded[:, 1:4] = X
    np.testing.assert_allclose(compiled({"x": padded[:, 1:4]})["y"], Y, rtol=1e-6)


def test_outputs_belong_to_the_caller(parent: Path) -> None:
    compiled = runtime.load(parent)
    first = compiled({"x": X})["y"]
    compiled({"x": 2 * X})
    np.testing.assert_allclose(first, Y, rtol=1e-6)


def test_threads_may_share_an_instance(parent: Path) -> None:
    compiled = runtime.load(parent)
    wrong: list[int] = []

    def work(factor: int) -> None:
        for _ in range(200):
            if not np.allclose(compiled({"x": factor * X})["y"], factor * Y, rtol=1e-5):
                wrong.append(factor)

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_models_made_and_run_at_the_same_time_share_their_weights(tmp_path: Path) -> None:
    net = "g (float[1,64,9,9] x) => (float[1,64,9,9] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    proto = model(net, w=(64, 64, 3, 3))
    artefact = compile_model(proto, tmp_path, "x86-64")  # with AVX-512 no tile of Winograd pays here
    assert artefact.manifest.prepared_bytes
    (x,) = feeds(proto).values()
    expected = reference(proto, {"x": x})["y"]
    alive: list[runtime.CompiledModel] = []

    def work() -> None:
        for _ in range(20):
            compiled = runtime.load(tmp_path)
            assert np.allclose(compiled({"x": x})["y"], expected, atol=1e-4)
            alive[:] = [compiled]  # lets one of any thread go

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    again = runtime.load(tmp_path)
    assert again._weights is alive[0]._weights


def test_compiling_into_the_same_folder_again_gives_the_new_model(tmp_path: Path) -> None:
    """The old instance keeps running, though the loader knows its library by the same path."""
    loaded = []
    for operator in ("Exp", "Neg", "Abs"):
        compile_model(model(f"g (float[3] x) => (float[3] y) {{ y = {operator} (x) }}"), tmp_path)
        loaded.append(runtime.load(tmp_path))
    x = np.array([-1, 0.5, 2], np.float32)
    for compiled, function in zip(loaded, (np.exp, np.negative, np.abs), strict=True):
        np.testing.assert_allclose(compiled({"x": x})["y"], function(x), rtol=1e-6)


def test_an_artefact_of_another_machine_is_not_loaded(parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent / machine(), tmp_path / "elsewhere")
    with pytest.raises(InvalidModelError, match="no compiled model for this machine") as caught:
        runtime.load(tmp_path)
    assert "elsewhere" in caught.value.hint
    with pytest.raises(InvalidModelError, match="no compiled model"):
        runtime.load(tmp_path / "nowhere")


def test_a_damaged_artefact_is_refused(parent: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(parent / machine(), folder)
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    with (folder / "weights.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InvalidModelError, match=r"weights\.bin"):
        runtime.load(folder)
    (folder / "weights.bin").write_bytes(bytes(manifest.weights_bytes))
    (folder / manifest.library).write_bytes(b"not a library")
    with pytest.raises(InvalidModelError, match="cannot be loaded"):
        runtime.load(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(InvalidModelError, match=r"manifest\.json"):
        runtime.load(folder)
    future = msgspec.structs.replace(manifest, format=99)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(future))
    with pytest.raises(InvalidModelError, match="format 99"):
        runtime.load(folder)
