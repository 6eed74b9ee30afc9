"""The source of a compiled model: static tables of tensors and calls, and the loop that runs them.

The kernels follow TVM's calling convention (`__tvm_ffi_NAME` with DLPack tensors); the few symbols of TVM's runtime
that they may reach, an error message and memory for large temporaries, are defined here: the artefact needs nothing.
`model.c.in` is what every target has; `library.c.in` makes a C library of it and `module.c.in` a WebAssembly module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from graphprune.compiler.manifest import Value
from graphprune.compiler.program import Program
from graphprune.compiler.targets import Target

_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy kind → DLDataTypeCode

# x86 feature → cpuid leaf, register (1 ebx, 2 ecx), bit, and the register state the system must save (xcr0)
_CPUID = {
    "sse4.2": (1, 2, 20, 0x2),
    "fma": (1, 2, 12, 0x6),
    "avx2": (7, 1, 5, 0x6),
    "avx512f": (7, 1, 16, 0xE6),
    "avx512dq": (7, 1, 17, 0xE6),
    "avx512bw": (7, 1, 30, 0xE6),
    "avx512vl": (7, 1, 31, 0xE6),
}


@dataclass(frozen=True)
class Source:
    """What the C compiler gets: the model, kernels excepted, and the header that a library is used through."""

    model: str
    header: str


def emit(
    program: Program,
    target: Target,
    workspace: int,
    weights: int,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    embed: bool = False,
) -> Source:
    """The C of a model; `@IDENTITY@` stands where `seal` puts the identity. To `embed` includes `weights.bin`."""
    interface = {
        "WORKSPACE": workspace,
        "WEIGHTS": weights,
        "N_INPUTS": len(inputs),
        "N_OUTPUTS": len(outputs),
        "N_CALLS": len(program.calls),
        "EMBEDDED": int(embed),
    }
    model = _fill("model.c.in", **interface, **_tables(program))
    if target.wasm:
        return Source(model + _fill("module.c.in", **interface), "")
    checks = [
        f"has({leaf}, {register}, {bit}, {state})"
        for leaf, register, bit, state in (_CPUID[f] for f in target.features if f not in target.unchecked)
    ]
    library = _fill(
        "library.c.in",
        **interface,
        CPU_OK=" && ".join(checks) or "1",
        INPUT_VALUES=_described(inputs, program, program.inputs),
        OUTPUT_VALUES=_described(outputs, program, program.outputs),
    )
    described = {
        "LIBRARY": target.library,
        "SIZES": "\n".join([*_defines("INPUT", inputs), *_defines("OUTPUT", outputs)]),
        "WEIGHTS_ARGUMENTS": "0, 0" if embed else "weights, bytes",
    }
    return Source(model + library, _fill("model.h.in", **interface, **described))


def seal(source: Source, kernels: Iterable[Path]) -> tuple[Source, str]:
    """`source` with the identity of its artefact, and that identity: a digest of all code, these files included."""
    code = b"".join([source.model.encode(), *(file.read_bytes() for file in kernels)])
    identity = hashlib.blake2b(code, digest_size=16).hexdigest()
    return Source(source.model.replace("@IDENTITY@", identity), source.header), identity


def _fill(template: str, **fields: object) -> str:
    text = resources.files("graphprune.compiler").joinpath(template).read_text()
    for key, value in fields.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def _tables(program: Program) -> dict[str, object]:
    """The fields of `model.c.in` that hold the program."""
    shapes: list[int] = []
    tensors = []
    for tensor in program.tensors:
        kind = np.dtype(tensor.dtype)
        where = 0 if program.tensors[tensor.root].value is not None else 2 if tensor.private else 1
        tensors.append(
            f"  {{{where}, {tensor.offset}LL, {len(tensor.shape)}, {len(shapes)}, {_KINDS[kind.kind]}, "
            f"{kind.itemsize * 8}}},"
        )
        shapes.extend(tensor.shape)
    arguments: list[int] = []
    calls = []
    for call in program.calls:
        calls.append(f"  {{__tvm_ffi_{call.function}, {len(arguments)}, {len(call.arguments)}, {_or(call.share)}}},")
        arguments.extend(call.arguments)
    names = sorted({call.function for call in program.calls})

    def numbers(values: list[int]) -> str:
        return ", ".join(map(str, values or [0]))

    return {
        "DECLARATIONS": "\n".join(f"int __tvm_ffi_{name}(void*, const Any*, int32_t, Any*);" for name in names),
        "SHAPES": numbers(shapes),
        "TENSORS": "\n".join(tensors),
        "N_TENSORS": len(tensors),
        "ARGUMENTS": numbers(arguments),
        "N_ARGUMENTS": max(len(arguments), 1),
        "CALLS": "\n".join(calls) or "  {0, 0, 0, -1},",
        "INPUTS": numbers(program.inputs),
        "OUTPUTS": numbers(program.outputs),
    }


def _or(index: int | None) -> int:
    return -1 if index is None else index


def _described(values: Sequence[Value], program: Program, tensors: list[int]) -> str:
    """Rows of `graphprune_tensor`, each with the shape of its tensor."""
    starts = np.cumsum([0, *(len(t.shape) for t in program.tensors)]).tolist()
    return "\n".join(
        f"  {{{_quoted(v.name)}, {_quoted(v.dtype)}, {len(v.shape)}, shapes + {starts[t]}, {v.nbytes}}},"
        for v, t in zip(values, tensors, strict=True)
    )


def _defines(kind: str, values: Sequence[Value]) -> list[str]:
    lines = []
    for i, value in enumerate(values):
        shape = ", ".join(map(str, value.shape))
        lines += [
            f"#define GRAPHPRUNE_{kind}_{i}_NAME {_quoted(value.name)} /* {value.dtype} [{shape}] */",
            f"#define GRAPHPRUNE_{kind}_{i}_BYTES {value.nbytes}",
        ]
    return lines


def _quoted(text: str) -> str:
    """`text` as a C string, without an `@`, which templates give a meaning."""
    plain = set(range(32, 127)) - set(b'"\\?@')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'
