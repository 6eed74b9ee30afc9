"""What WebGPU's storage has none of, in a type that it has: int64 and bool as int32.

An int64 keeps its value where that fits 32 bits, which the loader checks of inputs and this module of constants; what
is computed from them wraps around beyond. A bool is 0 or 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx.buffer import is_buffer_var

from graphprune.compiler.program import Program
from graphprune.errors import CompileError

STORED = ("float32", "int32", "uint32")  # what WGSL can store and compute with
NARROWED = ("int64", "bool")  # what becomes an int32
HINT = "leave the target out, or cast to float32 or int32 before"
_INT32 = np.iinfo(np.int32)


def check(module: tvm.IRModule, node_of: dict[str, str], operators: dict[str, str]) -> None:
    """Refuse an imported model with values of a type that has no form.

    Args:
        module: as it was imported.
        node_of: the ONNX node behind a Relax variable.
        operators: the operator of every ONNX node.

    Raises:
        CompileError: it names the input, or the node and its operator, and the type.
    """
    main = module["main"]
    for parameter in main.params:
        _known(parameter, f"input {str(parameter.name)!r}")
    for block in main.body.blocks:
        for binding in block.bindings:
            node = node_of.get(str(binding.var.name), str(binding.var.name))
            _known(binding.var, f"node {node!r}: {operators.get(node, 'an operator')} gives a value that")


def _known(value: Any, what: str) -> None:
    dtype = str(getattr(value.ty, "dtype", "") or "float32")
    if dtype not in (*STORED, *NARROWED, "uint1"):
        raise CompileError(f"{what} has type {dtype}, which WebGPU has none of", HINT)


def narrow(module: tvm.IRModule, program: Program) -> tvm.IRModule:
    """The kernels of `module` on int32 in place of int64 and bool; the tensors of `program` with them, in place.

    Raises:
        CompileError: a constant does not fit 32 bits.
    """
    for tensor in program.tensors:
        if tensor.dtype in NARROWED:
            tensor.dtype = "int32"
        if tensor.value is not None and tensor.value.dtype.name in NARROWED:
            if tensor.value.size and not _INT32.min <= tensor.value.min() <= tensor.value.max() <= _INT32.max:
                raise CompileError("a constant of type int64 does not fit 32 bits, and WebGPU has no more", HINT)
            tensor.value = tensor.value.astype(np.int32)
    kernels = {v: _narrowed(f, v.name_hint) for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    return tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule(kernels))


def _narrowed(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """`function` with parameters, buffers and variables of int32; what is computed follows in TVM's own pass."""
    swapped: dict[Any, Any] = {}
    wide: list[int] = []

    def buffer(value: Any) -> Any:
        if not is_buffer_var(value) or str(value.dtype) != "bool":
            return value
        return swapped.setdefault(value, value.with_dtype("int32"))

    def load(value: Any) -> Any:
        if is_buffer_var(value.source) and (str(value.ty), str(value.source.dtype)) == ("bool", "int32"):
            return value.source[tuple(value.indices)] != 0
        return value

    def store(value: Any) -> Any:
        if (str(value.value.ty), str(value.buffer.dtype)) == ("bool", "int32"):
            return tirx.BufferStore(value.buffer, value.value.astype("int32"), value.indices)
        return value

    def constant(value: Any) -> None:
        if not _INT32.min <= value.value <= _INT32.max:
            wide.append(value.value)

    def scalar(value: Any) -> Any:
        return tvm.ir.PrimType("int32") if str(value.dtype) == "int64" else value

    tvm_ffi.structural_walk(function, [(tirx.IntImm, constant)])
    if wide:
        raise CompileError(f"operator {name} uses {wide[0]}, which does not fit the 32 bits of WebGPU", HINT)
    rules = [(tvm.ir.Var, buffer), (tvm.ir.expr.TensorLoad, load), (tirx.BufferStore, store)]
    function = tvm_ffi.structural_map(function, rules)
    return tvm_ffi.structural_map(function, (tvm.ir.PrimType, scalar))
