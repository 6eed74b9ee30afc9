"""The JavaScript of a WebAssembly module, in Node: it loads from files and by HTTP, checks what it is given."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphprune.compiler import compile_model, javascript, targets
from tests.compiler.oracle import model, need

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def net() -> onnx.ModelProto:
    """y = relu(x · w), and n = 2 · i."""
    return model(
        """g (float[2,3] x, int64[2] i) => (float[2,4] y, int64[2] n) {
            m = MatMul (x, w) y = Relu (m) n = Add (i, i)
        }""",
        w=WEIGHTS,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(targets.ZIG, "node")
    made = tmp_path_factory.mktemp("wasm32")
    compile_model(net(), made, "wasm32")
    return made


def node(
    folder: Path, program: str, where: str | None = None, cwd: Path | None = None, flags: Sequence[str] = ()
) -> Any:
    """What `program` prints as JSON, with `load` of the folder's module and `model` loaded from `where`."""
    start = f"""
import {{ load }} from {json.dumps((folder / "model.mjs").as_uri())};
const x = new Float32Array([1, -2, 3, 0.5, 0, -1]);
const i = new BigInt64Array([3n, -4n]);
const plain = (out) => ({{ y: Array.from(out.y.data), n: Array.from(out.n.data, Number), dims: out.y.dims }});
const message = (promise) => promise.then(() => "no error", (error) => `${{error.name}}: ${{error.message}}`);
const print = (value) => console.log(JSON.stringify(value));
const where = {json.dumps(where)};
"""
    command = ["node", *flags, "--input-type=module", "--eval", start + program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


Y = np.maximum(np.array([[1, -2, 3], [0.5, 0, -1]]) @ WEIGHTS, 0)
RESULT = {"y": Y.flatten().tolist(), "n": [6, -8], "dims": [2, 4]}


def test_it_runs_from_its_own_folder(folder: Path) -> None:
    assert node(folder, "print(plain(await (await load()).run({ x, i })))") == RESULT


def test_a_folder_may_be_a_path_a_url_or_a_string(folder: Path) -> None:
    program = "print(plain(await (await load(where)).run({ x, i })))"
    assert node(folder, program, where=folder.as_uri()) == RESULT
    assert node(folder, program, where=f"./{folder.name}", cwd=folder.parent) == RESULT
    assert node(folder, program.replace("where", "new URL(where)"), where=folder.as_uri()) == RESULT


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_it_loads_by_http_as_in_a_browser(folder: Path, server: str) -> None:
    assert node(folder, "print(plain(await (await load(where)).run({ x, i })))", where=server) == RESULT
    assert "404" in node(folder, "print(await message(load(where + '/none')))", where=server)


def test_outputs_are_copies_and_runs_independent(folder: Path) -> None:
    program = """
const model = await load();
const first = await model.run({ x, i });
await model.run({ x: x.map((v) => 7 * v), i });
print([plain(first), plain(await model.run({ x, i }))]);
"""
    assert node(folder, program) == [RESULT, RESULT]


def test_wrong_inputs_are_named(folder: Path) -> None:
    program = """
const model = await load();
print(await Promise.all([
  model.run(), model.run({ i }), model.run({ x, i, z: x }), model.run({ x: new Float64Array(6), i }),
  model.run({ x, i: [3n, 4n] }), model.run({ x: x.subarray(1), i }),
  model.run({ x: { data: x, dims: [3, 2] }, i }),
].map(message)));
"""
    assert node(folder, program) == [
        'TypeError: input "x" is missing',
        'TypeError: input "x" is missing',
        'TypeError: the model has no input "z"; inputs: x, i',
        'TypeError: input "x" must be a Float32Array (float32)',
        'TypeError: input "i" must be a BigInt64Array (int64)',
        'RangeError: input "x" has 5 values, the model takes 6 (2×3)',
        'RangeError: input "x" has dims 3×2, the model takes 2×3',
    ]


def test_an_output_can_be_an_input(folder: Path) -> None:
    assert node(folder, "print(plain(await (await load()).run({ x: { data: x, dims: [2, 3] }, i })))") == RESULT


def test_broken_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    def load(change: str) -> str:
        return node(folder, "print(await message(load(where)))", where=str(tmp_path / change))

    for change in ("short", "foreign", "format", "cut", "empty"):
        shutil.copytree(folder, tmp_path / change)
    weights = (folder / "weights.bin").read_bytes()
    (tmp_path / "short" / "weights.bin").write_bytes(weights[:-1])
    assert load("short") == f"Error: weights.bin has {len(weights) - 1} bytes, not {len(weights)}"
    manifest = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "foreign" / "manifest.json").write_text(json.dumps(manifest | {"identity": "0" * 32}))
    assert load("foreign") == "Error: the module is not the one of manifest.json"
    (tmp_path / "format" / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    assert load("format") == "Error: manifest.json has format 99, not 1"
    for module in ("model.wasm", "model.relaxed.wasm"):
        (tmp_path / "cut" / module).write_bytes((folder / module).read_bytes()[:-9])
    assert re.match(r"Error: model(\.relaxed)?\.wasm: truncated, or no WebAssembly this engine takes", load("cut"))
    (tmp_path / "empty" / "manifest.json").write_text("")
    assert load("empty") == "Error: manifest.json is truncated or no JSON"


def test_without_memory_it_says_so(tmp_path: Path) -> None:
    need(targets.ZIG, "node")
    compile_model(model("g (float[16,1024,1024] x) => (float[16,1024,1024] y) { y = Exp (x) }"), tmp_path, "wasm32")
    said = node(tmp_path, "print(await message(load()))", flags=["--wasm-max-mem-pages=1000"])
    assert re.match(r"Error: model(\.relaxed)?\.wasm: out of memory \(.*[Oo]ut of memory", said)


def relaxed_simd() -> list[str]:
    """What Node is told to have relaxed SIMD: a flag in Node 20; from Node 22 on it always has."""
    flags = ["--experimental-wasm-relaxed-simd"]
    known = subprocess.run(["node", *flags, "--eval", ""], capture_output=True, check=False).returncode == 0
    return flags if known else []


@pytest.mark.parametrize("relaxed", [False, True])
def test_the_module_is_the_one_the_engine_can_run(folder: Path, relaxed: bool) -> None:
    program = """
const modules = [];
const instantiate = WebAssembly.instantiate;
WebAssembly.instantiate = (code, imports) => { modules.push(code.length); return instantiate(code, imports); };
print([modules, plain(await (await load()).run({ x, i }))]);
"""
    flags = relaxed_simd() if relaxed else []
    sizes = {name: (folder / name).stat().st_size for name in ("model.wasm", "model.relaxed.wasm")}
    assert sizes["model.wasm"] != sizes["model.relaxed.wasm"]
    modules, result = node(folder, program, flags=flags)
    if relaxed:
        assert modules == [sizes["model.relaxed.wasm"]]
    assert set(modules) <= set(sizes.values())
    assert result == RESULT


def test_weights_can_be_inside(tmp_path: Path) -> None:
    need(targets.ZIG, "node")
    compile_model(net(), tmp_path, "wasm32", embed_weights=True)
    assert not (tmp_path / "weights.bin").exists()
    holding = [file.name for file in tmp_path.glob("*.wasm") if WEIGHTS.tobytes()[4:] in file.read_bytes()]
    assert holding == ["model.wasm"]
    for flags in ([], relaxed_simd()):
        assert node(tmp_path, "print(plain(await (await load()).run({ x, i })))", flags=flags) == RESULT
    whole = (tmp_path / "model.wasm").read_bytes()
    (tmp_path / "model.wasm").write_bytes(whole[:-1])
    assert node(tmp_path, "print(await message(load()))") == "Error: model.wasm: truncated"
    (tmp_path / "model.wasm").write_bytes(b"")
    assert node(tmp_path, "print(await message(load()))") == "Error: model.wasm: truncated"


def test_an_engine_without_simd_is_told_so(folder: Path) -> None:
    program = "WebAssembly.validate = () => false; print(await message(load()))"
    assert node(folder, program) == "Error: this engine lacks WebAssembly SIMD"


def test_the_module_imports_nothing_and_its_memory_is_fixed(folder: Path) -> None:
    program = """
import { readFileSync } from "node:fs";
const module = new WebAssembly.Module(readFileSync(where + "/model.wasm"));
const { exports } = new WebAssembly.Instance(module);
const before = exports.memory.buffer.byteLength;
exports._initialize(); exports.start(); exports.run();
print({ imports: WebAssembly.Module.imports(module), grown: exports.memory.buffer.byteLength - before });
"""
    assert node(folder, program, where=str(folder)) == {"imports": [], "grown": 0}


def test_types_name_inputs_and_outputs(folder: Path) -> None:
    types = (folder / "model.d.mts").read_text()
    assert '"x": Float32Array | Tensor<Float32Array>; // float32 [2, 3]' in types
    assert '"i": BigInt64Array | Tensor<BigInt64Array>; // int64 [2]' in types
    assert '"y": Tensor<Float32Array>; // float32 [2, 4]' in types
    assert "threads?: number" in types
    assert "@" not in types


def test_types_of_webgpu_know_no_threads() -> None:
    types = javascript.types("webgpu", [], [])
    assert "load(folder?: string | URL): Promise<Model>" in types
    assert "threads" not in types
    assert "@" not in types


def test_types_and_loader_agree_on_arrays(folder: Path) -> None:
    program = """
const { ARRAYS } = await import(where);
print(Object.fromEntries(Object.entries(ARRAYS).map(([dtype, array]) => [dtype, array.name])));
"""
    assert node(folder, program, where=(folder / "model.mjs").as_uri()) == javascript.ARRAYS
