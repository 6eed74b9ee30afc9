"""Run the kernels of a model with each of their arrays between pages that end the process when they are touched.

A compiled model copies its inputs into one workspace, where a kernel that goes astray meets the array of another one.
So the program is run here call by call, as the emitted C does, with memory of its own for every array. What is not
written yet is NaN, and every part of a shared call begins with scratch memory of NaN.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import traceback
from collections.abc import Callable

import numpy as np
import onnx
import tvm

from graphprune.compiler import build, importer, lower, targets
from graphprune.compiler.memory import ALIGNMENT, SLACK
from graphprune.compiler.program import Program, read_program
from graphprune.compiler.ways import Cheapest, Pick
from tests.compiler.oracle import assert_same, feeds, reference


class Fenced:
    """An array between two pages that may not be touched, next to the last or to the first.

    Kernels expect arrays to begin at multiples of `ALIGNMENT`, and may read, but not use, `SLACK` bytes behind them, as
    the memory plan has it. `spoilt` tells whether those were written.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, at_end: bool) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        room = -(-size // ALIGNMENT) * ALIGNMENT + SLACK
        inside = -(-room // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, inside + 2 * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for fence in (start, start + mmap.PAGESIZE + inside):
            assert protect(fence, mmap.PAGESIZE, 0) == 0
        offset = mmap.PAGESIZE + (inside - room if at_end else 0)
        everything = np.frombuffer(memory, np.uint8, inside, mmap.PAGESIZE)
        everything[:] = 0xFF  # NaN as float32
        self.array = np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)
        self._around = [everything[: offset - mmap.PAGESIZE], everything[offset - mmap.PAGESIZE + size :]]

    @property
    def spoilt(self) -> bool:
        """Whether anything was written outside the array."""
        return any(bool((beside != 0xFF).any()) for beside in self._around)


def in_child(work: Callable[[Callable[[str], None]], None]) -> str:
    """What went wrong with `work` in a process of its own, empty if nothing did.

    `work` is given a function to say how far it is.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            faulthandler.disable()  # signals are told by the parent
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.close(reading)
            work(lambda text: void(os.write(writing, f"{text}\n".encode())))
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return f"{signal.Signals(os.WTERMSIG(status)).name} in {said.splitlines()[-1]}"
    return said if status else ""


def void(_: object) -> None:
    """Drop a result."""


def check_fenced(
    proto: onnx.ModelProto, target: str = "host", pick: Pick | None = None, parts: tuple[int, ...] = (1, 3)
) -> list[str]:
    """Require what onnxruntime computes, and nothing outside any array; the names of the kernels called.

    Every call is done as a whole, then in other numbers of `parts`, at one end of its memory and at the other.
    """
    machine = targets.resolve(target)
    module, _ = importer.import_onnx(proto, {}, machine)
    lowered = lower.lower(module, machine, pick or Cheapest())
    program = read_program(lowered.module, lowered.scratch, lowered.ours)
    library = build.built(lowered.module, machine)
    inputs = feeds(proto)
    expected = reference(proto, inputs)
    for at_end in (True, False):
        for count in parts:
            wrong = in_child(lambda tell, end=at_end, n=count: _run(program, library, inputs, expected, end, n, tell))
            assert not wrong, f"{count} parts, the fence {'behind' if at_end else 'before'} every array: {wrong}"
    return [call.function for call in program.calls]


def _run(
    program: Program,
    library: tvm.runtime.Module,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    at_end: bool,
    parts: int,
    tell: Callable[[str], None],
) -> None:
    """All calls in order."""
    memory: dict[int, Fenced] = {}
    arrays = []
    for tensor in program.tensors:
        if tensor.root not in memory:
            memory[tensor.root] = Fenced(tensor.shape, np.dtype(tensor.dtype), at_end)
            if tensor.value is not None:
                memory[tensor.root].array[...] = tensor.value
        arrays.append(memory[tensor.root].array.reshape(tensor.shape))
    for index, value in zip(program.inputs, inputs.values(), strict=True):
        arrays[index][...] = value
    for call in (*program.once, *program.calls):
        for part in range(1 if call.share is None else parts):
            for index in call.arguments:
                if program.tensors[index].private:
                    arrays[index].view(np.uint8)[...] = 0xFF
            if call.share is not None:
                arrays[call.share][...] = part, parts
            tell(f"{call.function}, part {part}")
            library[call.function](*(tvm.runtime.from_dlpack(arrays[index]) for index in call.arguments))
            for index in call.arguments:
                assert not memory[program.tensors[index].root].spoilt, f"{call.function} writes beyond an array"
    assert_same({name: arrays[i] for name, i in zip(expected, program.outputs, strict=True)}, expected)
