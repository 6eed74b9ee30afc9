"""The C of a compiled model: static tables of tensors and calls, and the loop that runs them.

The kernels follow TVM's calling convention (`__tvm_ffi_NAME` with DLPack tensors); the few symbols of TVM's runtime
that they may reach, an error message and memory for large temporaries, are defined here: the library needs nothing.
"""

from __future__ import annotations

from importlib import resources

import numpy as np

from graphprune.compile.program import Program
from graphprune.compile.targets import Target

_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy kind → DLDataTypeCode


def emit_c(program: Program, target: Target, workspace: int, weights: int) -> str:
    """C source of the library, kernels excepted."""
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

    checks = " && ".join(f'__builtin_cpu_supports("{f}")' for f in target.features) or "1"
    template = resources.files("graphprune.compile").joinpath("model.c.in").read_text()
    fields = {
        "WORKSPACE": str(workspace),
        "WEIGHTS": str(weights),
        "CPU_OK": checks,
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
