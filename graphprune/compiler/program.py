"""The static program: a straight list of kernel calls on tensors whose place in memory is known.

Lowered Relax leaves `main` as allocations, kernel calls, views and aliases. Reading it once gives everything the
emitted C needs; nothing of Relax is left at run time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphprune.errors import CompileError

_HOLD = "relax.builtin.stop_lift_params"


@dataclass
class Tensor:
    """One array of the program.

    Attributes:
        dtype: numpy dtype name.
        shape: static shape.
        root: index of the tensor whose memory this one is (itself unless it is a view).
        value: the data of a constant, None for an array of the workspace.
        private: scratch memory, of which every thread has its own.
        prepared: made of constants when a model is loaded, and kept.
        offset: byte offset in the weights file, in the workspace or in what is prepared, once planned.
    """

    dtype: str
    shape: tuple[int, ...]
    root: int
    value: np.ndarray | None = None
    offset: int = -1
    private: bool = False
    prepared: bool = False

    @property
    def lasting(self) -> bool:
        """Whether it has memory of its own from before the first run on."""
        return self.value is not None or self.prepared

    @property
    def nbytes(self) -> int:
        """Bytes the array takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass
class Call:
    """A call of the kernel `function` on tensors.

    Attributes:
        share: the tensor that tells a kernel which part of its work to do; None where threads cannot share it.
        label: the Relax variable of its result.
    """

    function: str
    arguments: tuple[int, ...]
    share: int | None = None
    label: str = ""


@dataclass
class Program:
    """All of it: tensors, calls in order, and which tensors are the model's inputs and outputs.

    Attributes:
        once: calls on constants, for when a model is loaded.
        calls: those of every run.
    """

    tensors: list[Tensor] = field(default_factory=list)
    once: list[Call] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add(self, dtype: str, shape: tuple[int, ...], root: int | None = None, value: np.ndarray | None = None) -> int:
        """A new tensor; the view of `root` where that is given."""
        index = len(self.tensors)
        self.tensors.append(Tensor(dtype, shape, index if root is None else self.tensors[root].root, value))
        return index

    @property
    def constants(self) -> list[Tensor]:
        """The tensors that live in the weights file."""
        return [t for i, t in enumerate(self.tensors) if t.value is not None and t.root == i]

    @property
    def prepared(self) -> list[Tensor]:
        """The tensors that are made of them when a model is loaded."""
        return [t for t in self.tensors if t.prepared]


def hold(constant: Any) -> relax.Call:
    """A Relax expression for `constant` of which TVM computes nothing: a kernel called on it is to run `once`."""
    return relax.op.builtin.stop_lift_params(constant)


def read_program(
    module: tvm.IRModule, scratch: dict[str, list[tuple[str, tuple[int, ...]]]], ours: Collection[str] = ()
) -> Program:
    """The program in the lowered `main` of `module`.

    Args:
        module: after CallTIRRewrite; every shape static.
        scratch: per kernel, dtype and shape of the scratch arrays it takes after its own arguments.
        ours: kernels whose scratch array of int32 is their `Share`.

    Raises:
        CompileError: `main` holds something that is no kernel call, such as a shape known only at run time.
    """
    return _Reader(scratch, ours).read(module["main"])


class _Reader:
    def __init__(self, scratch: dict[str, list[tuple[str, tuple[int, ...]]]], ours: Collection[str]) -> None:
        self.program = Program()
        self.scratch, self.ours = scratch, ours
        self.values: dict[Any, Any] = {}  # relax variable → tensor index, or a tuple of them
        self.held: set[int] = set()  # constants that kernels take when a model is loaded
        self.constants: dict[int, int] = {}  # address of a constant's data → tensor index
        self.alive: list[Any] = []  # keeps those addresses from being reused

    def read(self, main: relax.Function) -> Program:
        for parameter in main.params:
            index = self.program.add(*_type(parameter, "input"))
            self.program.inputs.append(index)
            self.values[parameter] = index
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self.visit(binding.value, str(binding.var.name))
        result = self.value(main.body.body)
        self.program.outputs = list(result) if isinstance(result, tuple) else [result]
        return self.program

    def value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(item) for item in expr.fields)
        if isinstance(expr, tvm.ir.GenericConst):
            array = expr.value.numpy()
            key = array.__array_interface__["data"][0] if array.size else id(expr)
            if key not in self.constants:
                self.constants[key] = self.program.add(array.dtype.name, array.shape, value=array)
                self.alive.append(expr)
            return self.constants[key]
        raise CompileError(f"the lowered model holds {type(expr).__name__}, which has no static form")

    def visit(self, expr: Any, name: str) -> Any:
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value)[expr.index]
        if not isinstance(expr, relax.Call):
            self.label(self.value(expr), name)
            return self.value(expr)
        if isinstance(expr.op, tvm.ir.GlobalVar):
            return self.call(expr)
        operator = getattr(expr.op, "name", type(expr.op).__name__)
        if operator == "relax.builtin.alloc_tensor":
            shape = tuple(int(d) for d in expr.args[0].values)
            return self.program.add(_dtype(str(expr.ty.dtype)), shape)
        if operator == "relax.reshape":
            dtype, shape = _type(expr, name)
            return self.program.add(dtype, shape, root=self.value(expr.args[0]))
        if operator == _HOLD:
            dtype, shape = _type(expr, name)
            self.held.add(held := self.program.add(dtype, shape, root=self.value(expr.args[0])))
            return held
        raise CompileError(
            f"operator {operator.removeprefix('relax.')} has no compiled form without TVM's runtime",
            "leave compilation out for this model",
        )

    def label(self, index: Any, name: str) -> None:
        """A kernel's result, or tuple of them, gets the variable it had in Relax right after the call."""
        if self.program.calls and {*np.atleast_1d(index)} & {*self.program.calls[-1].arguments}:
            self.program.calls[-1].label = name

    def call(self, expr: relax.Call) -> tuple[()]:
        name = str(expr.op.name_hint)
        arguments = [self.value(a) for a in expr.args]
        share = None
        once = not self.held.isdisjoint(arguments)
        if once:
            self.program.tensors[arguments[-1]].prepared = True
        for dtype, shape in self.scratch.get(name, []):
            arguments.append(self.program.add(dtype, shape))
            self.program.tensors[-1].private = True
            if dtype == "int32" and name in self.ours:
                share = arguments[-1]
        calls = self.program.once if once else self.program.calls
        calls.append(Call(name, tuple(arguments), share))
        return ()


def _dtype(dtype: str) -> str:
    return "bool" if dtype in ("bool", "uint1") else dtype


def _type(expr: Any, name: str) -> tuple[str, tuple[int, ...]]:
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(d, tvm.tirx.IntImm) for d in shape.values):
        raise CompileError(
            f"the shape of {name!r} depends on the data, and compiled models are static",
            "leave compilation out for this model",
        )
    return _dtype(str(expr.ty.dtype)), tuple(int(d) for d in shape.values)
