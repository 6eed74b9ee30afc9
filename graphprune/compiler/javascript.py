"""What WebAssembly modules and programs for WebGPU ship with: `model.mjs`, the same for every model, and its types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from graphprune.compiler.manifest import Value

# What holds the values of each dtype; interface.mjs says the same.
ARRAYS = {
    "float32": "Float32Array",
    "float64": "Float64Array",
    "float16": "Uint16Array",
    "int8": "Int8Array",
    "int16": "Int16Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
    "uint64": "BigUint64Array",
    "bool": "Uint8Array",
}

_CUSTOM, _IMPORTS, _MEMORY = 0, 2, 2  # sections of a module, and a kind of import
# What the types have besides where a model can be run by several threads.
_THREADS = {
    "MEMBERS": """  /** How many threads run the model. */
  readonly threads: number;
  /** End all threads but one, which goes on. */
  close(): void;
""",
    "OPTIONS": """export interface Options {
  /** Threads that share the work where the engine shares memory: a page must be cross-origin isolated. 1 by default. */
  threads?: number;
}

""",
    "OPTION": ", options?: Options",
}


def write(folder: Path, kind: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Write `model.mjs` and its types to `folder`, for a model that runs as `wasm` or `webgpu`."""
    (folder / "model.mjs").write_text(loader(kind), "utf-8")
    (folder / "model.d.mts").write_text(types(kind, inputs, outputs), "utf-8")


def loader(kind: str) -> str:
    """The text of `model.mjs` for `wasm` or `webgpu`: how that runs, then what both have in common."""
    folder = resources.files("graphprune.compiler")
    return "".join(folder.joinpath(f"{part}.mjs").read_text("utf-8") for part in (kind, "interface"))


def types(kind: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """The text of `model.d.mts`: names and array types of one model; of a `wasm`, threads too."""
    template = resources.files("graphprune.compiler").joinpath("model.d.mts.in").read_text("utf-8")
    for key, text in _THREADS.items():
        template = template.replace(f"@{key}@", text if kind == "wasm" else "")
    taken = [f"  {json.dumps(v.name)}: {ARRAYS[v.dtype]} | Tensor<{ARRAYS[v.dtype]}>; // {_sizes(v)}" for v in inputs]
    given = [f"  {json.dumps(v.name)}: Tensor<{ARRAYS[v.dtype]}>; // {_sizes(v)}" for v in outputs]
    return template.replace("@INPUTS@", "\n".join(taken)).replace("@OUTPUTS@", "\n".join(given))


def embed(module: Path, weights: Path) -> None:
    """Put the file `weights` at the end of a WebAssembly module, in a section that engines skip and wasm.mjs reads."""
    name, content = b"weights", weights.read_bytes()
    size = 1 + len(name) + len(content)
    with module.open("ab") as file:
        file.write(bytes([_CUSTOM, *(size >> 7 * i & 127 | 128 for i in range(4)), size >> 28]))
        file.write(bytes([len(name)]) + name + content)


def _sizes(value: Value) -> str:
    return f"{value.dtype} [{', '.join(map(str, value.shape))}]"


def pages(module: Path) -> int:
    """Pages of 64 kB that the WebAssembly module asks of the memory it imports; 0 if it brings its own."""
    code = module.read_bytes()
    at = 8  # after the magic number and the version

    def number() -> int:  # LEB128, unsigned
        nonlocal at
        value = shift = 0
        while True:
            byte = code[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(code):
        section, size = number(), number()
        if section != _IMPORTS:
            at += size
            continue
        count = number()
        assert count == 1, f"{module.name} imports more than its memory"
        for _ in range(2):  # of what module, under what name
            length = number()
            at += length
        kind, _limits = number(), number()
        assert kind == _MEMORY
        return number()
    return 0
