"""The source of a compiled model: static tables of tensors and calls, and the loop that runs them.

The kernels follow TVM's calling convention (`__tvm_ffi_NAME` with DLPack tensors); the few symbols of TVM's runtime
that they may reach, an error message and memory for large temporaries, are defined here: the artefact needs nothing.
`model.c.in` is what processors have; `library.c.in` makes a C library of it and `module.c.in` a WebAssembly module. How
threads share the work is the same in both, and lies in `parts.c.in`.
`cuda.c.in` is all of a library for a graphics processor but `interface.c.in`, which the two C libraries have in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphprune.compiler.manifest import Value
from graphprune.compiler.memory import Sizes
from graphprune.compiler.program import Program
from graphprune.compiler.targets import Target

if TYPE_CHECKING:
    from graphprune.compiler.device import Launch

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
class Image:
    """Kernels for graphics processors of a generation (10 · major + minor): machine code, or text for later ones."""

    generation: int
    text: bool
    file: str


@dataclass(frozen=True)
class Source:
    """What the C compiler gets: the model, kernels excepted, and the header that a library is used through."""

    model: str
    header: str


def emit(
    program: Program,
    target: Target,
    memory: Sizes,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    embed: bool = False,
) -> Source:
    """The C of a model; `@IDENTITY@` stands where `seal` puts the identity. To `embed` includes `weights.bin`."""
    sizes = _sizes(program, memory, inputs, outputs, embed)
    model = _fill("model.c.in", **sizes, **_tables(program))
    parts = _fill("parts.c.in", **sizes)
    if target.wasm:
        return Source(model + _fill("module.c.in", PARTS=parts, **sizes), "")
    checks = [
        f"has({leaf}, {register}, {bit}, {state})"
        for leaf, register, bit, state in (_CPUID[f] for f in target.features if f not in target.unchecked)
    ]
    interface = _interface(program, inputs, outputs, sizes)
    library = _fill("library.c.in", INTERFACE=interface, PARTS=parts, **sizes, CPU_OK=" && ".join(checks) or "1")
    return Source(model + library, _header(target, inputs, outputs, sizes))


def emit_cuda(
    program: Program,
    launches: Sequence[Launch],
    target: Target,
    memory: Sizes,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    images: Sequence[Image],
    embed: bool = False,
) -> Source:
    """The C of a model whose kernels, in `images`, run on an NVIDIA graphics processor; else as `emit`."""
    sizes = _sizes(program, memory, inputs, outputs, embed)
    names = sorted({launch.kernel for launch in launches})
    arguments: list[int] = []
    rows = []
    for x in launches:
        numbers = f"{names.index(x.kernel)}, {len(arguments)}, {len(x.arguments)}"
        grid, block = (", ".join(map(str, extent)) for extent in (x.grid, x.block))
        rows.append(f"  {{{numbers}, {{{grid}}}, {{{block}}}, {x.call + 1}}},")
        arguments.extend(x.arguments)
    where = [int(program.tensors[t.root].value is None) for t in program.tensors]
    text = _fill(
        "cuda.c.in",
        INTERFACE=_interface(program, inputs, outputs, sizes),
        **sizes,
        SHAPES=_numbers([size for t in program.tensors for size in t.shape]),
        PLACES="\n".join(f"  {{{at}, {t.offset}}}," for at, t in zip(where, program.tensors, strict=True)),
        KERNELS="\n".join(f'  "{name}",' for name in names) or '  "",',
        ARGUMENTS=_numbers(arguments),
        LAUNCHES="\n".join(rows) or "  {0},",
        INPUTS=_numbers(program.inputs),
        OUTPUTS=_numbers(program.outputs),
        N_KERNELS=len(names),
        N_LAUNCHES=len(launches),
        MOST_ARGUMENTS=max((len(x.arguments) for x in launches), default=1),
        IMAGES="\n".join(
            f'    ".balign 64\\ngraphprune_image_{i}:\\n.incbin \\"{x.file}\\"\\n"' for i, x in enumerate(images)
        ),
        IMAGE_NAMES="\n".join(
            f'extern const char graphprune_image_{i}[] __attribute__((visibility("hidden")));'
            for i in range(len(images))
        ),
        IMAGE_TABLE="\n".join(
            f"  {{{x.generation}, {int(x.text)}, graphprune_image_{i}}}," for i, x in enumerate(images)
        ),
    )
    return Source(text, _header(target, inputs, outputs, sizes))


def _sizes(
    program: Program, memory: Sizes, inputs: Sequence[Value], outputs: Sequence[Value], embed: bool
) -> dict[str, object]:
    return {
        "WORKSPACE": memory.workspace,
        "WEIGHTS": memory.weights,
        "PREPARED": memory.prepared,
        "N_INPUTS": len(inputs),
        "N_OUTPUTS": len(outputs),
        "N_CALLS": len(program.calls),
        "N_ONCE": len(program.once),
        "EMBEDDED": int(embed),
    }


def _interface(program: Program, inputs: Sequence[Value], outputs: Sequence[Value], sizes: dict[str, object]) -> str:
    """What every C library has of `model.h`."""
    return _fill(
        "interface.c.in",
        **sizes,
        INPUT_VALUES=_described(inputs, program, program.inputs),
        OUTPUT_VALUES=_described(outputs, program, program.outputs),
    )


def _header(target: Target, inputs: Sequence[Value], outputs: Sequence[Value], sizes: dict[str, object]) -> str:
    return _fill(
        "model.h.in",
        **sizes,
        LIBRARY=target.library,
        SIZES="\n".join([*_defines("INPUT", inputs), *_defines("OUTPUT", outputs)]),
        WEIGHTS_ARGUMENTS="0, 0" if sizes["EMBEDDED"] else "weights, bytes",
        SYSTEM="-ldl -pthread" if target.device else "-lm -pthread",
    )


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
        root = program.tensors[tensor.root]
        where = 0 if root.value is not None else 3 if root.prepared else 2 if tensor.private else 1
        tensors.append(
            f"  {{{where}, {tensor.offset}LL, {len(tensor.shape)}, {len(shapes)}, {_KINDS[kind.kind]}, "
            f"{kind.itemsize * 8}}},"
        )
        shapes.extend(tensor.shape)
    arguments: list[int] = []
    calls = []
    for call in (*program.calls, *program.once):
        calls.append(f"  {{__tvm_ffi_{call.function}, {len(arguments)}, {len(call.arguments)}, {_or(call.share)}}},")
        arguments.extend(call.arguments)
    names = sorted({call.function for call in (*program.calls, *program.once)})

    return {
        "DECLARATIONS": "\n".join(f"int __tvm_ffi_{name}(void*, const Any*, int32_t, Any*);" for name in names),
        "SHAPES": _numbers(shapes),
        "TENSORS": "\n".join(tensors),
        "N_TENSORS": len(tensors),
        "ARGUMENTS": _numbers(arguments),
        "N_ARGUMENTS": max(len(arguments), 1),
        "CALLS": "\n".join(calls) or "  {0, 0, 0, -1},",
        "INPUTS": _numbers(program.inputs),
        "OUTPUTS": _numbers(program.outputs),
    }


def _numbers(values: list[int]) -> str:
    return ", ".join(map(str, values or [0]))


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
