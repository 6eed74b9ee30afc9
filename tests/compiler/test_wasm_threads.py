"""Threads of a WebAssembly module, in Node: the same bits as without, and one thread where there can be no more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler import compile_model, javascript, targets
from tests.compiler.oracle import feeds, model, need, reference
from tests.compiler.test_javascript import node
from tests.compiler.test_threads import TEXT, WEIGHTS

PROTO = model(TEXT, shape=np.array([1, 4, 54]), **WEIGHTS)

# Loads with threads, and finds in memory whether the others took part: a kernel is told its part and how many there are
# in memory of its thread's own, so the number of parts lies there once a thread has computed one.
SET_UP = """
let memory;
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(limits) { super(limits); memory = this; }
};
const input = Float32Array.from({ length: 8 * 225 }, (_, k) => Math.sin(k));
const bits = (out) => Buffer.concat(["y", "z"].map((name) => Buffer.from(out[name].data.buffer)));
const same = (a, b) => bits(a).equals(bits(b));
const one = await load(where);
const started = (threads) => load(where, { threads });
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(targets.ZIG, "node")
    made = tmp_path_factory.mktemp("wasm32")
    compile_model(PROTO, made, "wasm32")
    return made


@pytest.mark.parametrize("threads", [2, 5])
def test_same_bits(folder: Path, threads: int) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    program = f"""
const together = await started({threads});
const own = memory.buffer.byteLength / 4 - {manifest["pages"] * 16384};
const helped = () => {{
  const each = own / {threads - 1};
  const words = new Int32Array(memory.buffer, {manifest["pages"] * 65536});
  const part = (i) => words.subarray(i * each + {64 * 16384}, (i + 1) * each).includes({threads});
  return Array.from({{ length: {threads - 1} }}, (_, i) => part(i)).every(Boolean);
}};
let differ = 0, runs = 0;
while (runs < 30 || (!helped() && runs < 20000)) {{
  const x = input.map((v) => v * (1 + runs % 30));
  ++runs;
  if (!same(await one.run({{ x }}), await together.run({{ x }}))) ++differ;
}}
const finite = [...(await together.run({{ x: input }})).y.data].every((v) => v > 0);
print([together.threads, one.threads, differ, helped(), finite]);
"""
    assert node(folder, SET_UP + program, where=folder.as_uri()) == [threads, 1, 0, True, True]


def test_closed_it_goes_on_alone_and_the_program_ends(folder: Path) -> None:
    program = """
const together = await started(3);
const before = await together.run({ x: input });
together.close();
together.close();
print([together.threads, same(before, await together.run({ x: input }))]);
"""
    assert node(folder, SET_UP + program, where=folder.as_uri()) == [1, True]


@pytest.mark.parametrize(
    "lack",
    [
        "delete globalThis.SharedArrayBuffer;",
        "globalThis.crossOriginIsolated = false;",
        """const workers = (await import("node:worker_threads")).default;
        workers.Worker = class { constructor() { throw new Error("no workers here"); } };
        (await import("node:module")).syncBuiltinESMExports();""",
    ],
    ids=["no shared memory", "not isolated", "no workers"],
)
def test_one_thread_where_there_can_be_no_more(folder: Path, lack: str) -> None:
    program = f"""
{lack}
const alone = await started(4);
print([alone.threads, same(await one.run({{ x: input }}), await alone.run({{ x: input }}))]);
"""
    assert node(folder, SET_UP + program, where=folder.as_uri()) == [1, True]


def test_what_cannot_be_is_refused(folder: Path) -> None:
    program = "print(await Promise.all([0, 1.5, 'two', 100000].map((threads) => message(started(threads)))))"
    *wrong, full = node(folder, SET_UP + program, where=folder.as_uri())
    assert wrong == [f"RangeError: threads is {n}, not an integer from 1 on" for n in ("0", "1.5", "two")]
    assert full.startswith("Error: out of memory: 100000 threads need")


def test_weights_can_be_inside(tmp_path: Path) -> None:
    need(targets.ZIG, "node")
    compile_model(PROTO, tmp_path, "wasm32", embed_weights=True)
    program = """
const together = await started(2);
print([together.threads, same(await one.run({ x: input }), await together.run({ x: input }))]);
"""
    assert node(tmp_path, SET_UP + program, where=tmp_path.as_uri()) == [2, True]


def test_outputs_are_right(folder: Path) -> None:
    inputs = feeds(PROTO)
    program = f"""
const given = new Float32Array({json.dumps(inputs["x"].ravel().tolist())});
print(Array.from((await (await started(2)).run({{ x: given }})).z.data));
"""
    found = np.reshape(node(folder, SET_UP + program, where=folder.as_uri()), (1, 24, 5, 5))
    assert np.abs(found - reference(PROTO, inputs)["z"]).max() <= 1e-5


def test_modules_that_share_memory_say_how_much(folder: Path) -> None:
    pages = {name: javascript.pages(folder / name) for name in ("model.wasm", "model.threads.wasm")}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert pages["model.wasm"] == 0
    assert 1 < pages["model.threads.wasm"] <= manifest["pages"]
