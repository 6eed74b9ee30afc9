"""The C of a compiled model: static tables of tensors and calls, and the loop that runs them.

The kernels follow TVM's calling convention (`__tvm_ffi_NAME` with DLPack tensors); the few symbols of TVM's runtime
that they may reach, an error message and memory for large temporaries, are defined here: the library needs nothing.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np

from graphprune.compile.program import Program
from graphprune.compile.targets import Target

_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy kind → DLDataTypeCode


# x86 feature → cpuid leaf, register (1 ebx, 2 ecx), bit, and the register state the system must save (xcr0)
_CPUID = {
    "fma": (1, 2, 12, 0x6),
    "avx2": (7, 1, 5, 0x6),
    "avx512f": (7, 1, 16, 0xE6),
    "avx512dq": (7, 1, 17, 0xE6),
    "avx512bw": (7, 1, 30, 0xE6),
    "avx512vl": (7, 1, 31, 0xE6),
}


def emit_c(program: Program, target: Target, workspace: int, weights: int) -> str:
    """C source of the library, kernels excepted; `IDENTITY` stands where `seal` puts the identity."""
    names = sorted({call.function for call in program.calls})
    shapes: list[int] = []
    tensors = []
    for tensor in program.tensors:
        kind = np.dtype(tensor.dtype)
        where = 0 if program.tensors[tensor.root].value is not None else 1
        tensors.append(
            f"  {{{where}, {tensor.offset}LL, {len(tensor.shape)}, {len(shapes)}, {_KINDS[kind.kind]}, "
            f"{kind.itemsize * 8}, {tensor.nbytes}LL}},"
        )
        shapes.extend(tensor.shape)
    arguments: list[int] = []
    calls = []
    for call in program.calls:
        calls.append(f"  {{__tvm_ffi_{call.function}, {len(arguments)}, {len(call.arguments)}}},")
        arguments.extend(call.arguments)

    def numbers(values: list[int]) -> str:
        return ", ".join(map(str, values or [0]))

    checks = [
        f"has({leaf}, {register}, {bit}, {state})"
        for leaf, register, bit, state in map(_CPUID.__getitem__, target.features)
    ]
    template = resources.files("graphprune.compile").joinpath("model.c.in").read_text()
    fields = {
        "WORKSPACE": str(workspace),
        "WEIGHTS": str(weights),
        "CPU_OK": " && ".join(checks) or "1",
        "DECLARATIONS": "\n".join(f"int __tvm_ffi_{name}(void*, const Any*, int32_t, Any*);" for name in names),
        "SHAPES": numbers(shapes),
        "TENSORS": "\n".join(tensors),
        "N_TENSORS": str(len(tensors)),
        "ARGUMENTS": numbers(arguments),
        "N_ARGUMENTS": str(max(len(arguments), 1)),
        "CALLS": "\n".join(calls) or "  {0, 0, 0},",
        "N_CALLS": str(len(calls)),
        "INPUTS": numbers(program.inputs),
        "N_INPUTS": str(len(program.inputs)),
        "OUTPUTS": numbers(program.outputs),
        "N_OUTPUTS": str(len(program.outputs)),
    }
    for key, text in fields.items():
        template = template.replace(f"@{key}@", text)
    return template


def seal(source: str, kernels: bytes) -> tuple[str, str]:
    """`source` with the identity of its library, and that identity: a digest of all code."""
    identity = hashlib.blake2b(source.encode() + kernels, digest_size=16).hexdigest()
    return source.replace("IDENTITY", identity), identity
