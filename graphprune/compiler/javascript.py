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


def write(folder: Path, kind: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Write `model.mjs` and its types to `folder`, for a model that runs as `wasm` or `webgpu`."""
    (folder / "model.mjs").write_text(loader(kind), "utf-8")
    (folder / "model.d.mts").write_text(types(inputs, outputs), "utf-8")


def loader(kind: str) -> str:
    """The text of `model.mjs` for `wasm` or `webgpu`: how that runs, then what both have in common."""
    folder = resources.files("graphprune.compiler")
    return "".join(folder.joinpath(f"{part}.mjs").read_text("utf-8") for part in (kind, "interface"))


def types(inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """The text of `model.d.mts`: names and array types of one model."""
    template = resources.files("graphprune.compiler").joinpath("model.d.mts.in").read_text("utf-8")
    taken = [f"  {json.dumps(v.name)}: {ARRAYS[v.dtype]} | Tensor<{ARRAYS[v.dtype]}>; // {_sizes(v)}" for v in inputs]
    given = [f"  {json.dumps(v.name)}: Tensor<{ARRAYS[v.dtype]}>; // {_sizes(v)}" for v in outputs]
    return template.replace("@INPUTS@", "\n".join(taken)).replace("@OUTPUTS@", "\n".join(given))


def _sizes(value: Value) -> str:
    return f"{value.dtype} [{', '.join(map(str, value.shape))}]"
