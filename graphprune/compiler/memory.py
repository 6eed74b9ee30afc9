"""Where every array lives: constants one after the other in the weights file, the rest in one shared workspace.

What is made of constants when a model is loaded has memory of its own.

The workspace is planned greedily, largest array first, each at the lowest offset that is free while it lives (Pisarchyk
& Lee, "Efficient memory management for deep neural net inference", 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from graphprune.compiler.program import Program, Tensor

ALIGNMENT = 64  # bytes; TVM's generated code assumes it, and it is a cache line
DEVICE_ALIGNMENT = 256  # bytes; what a graphics processor wants of a buffer's parts
SLACK = 256  # bytes after the last array: kernels may read, and never use, a vector or two beyond an array


class Sizes(NamedTuple):
    """Bytes of the workspace, of the weights file, and of what is prepared when a model is loaded."""

    workspace: int
    weights: int
    prepared: int = 0


def plan(program: Program, alignment: int = ALIGNMENT) -> Sizes:
    """Give every tensor its offset."""

    def align(size: int) -> int:
        return -(-size // alignment) * alignment

    weights = _in_a_row(program.constants, align)
    prepared = _in_a_row(program.prepared, align)
    born, dies = _lifetimes(program)
    sizes = {root: align(program.tensors[root].nbytes) for root in born}
    placed: list[int] = []
    workspace = 0
    for root in sorted(born, key=lambda r: (-sizes[r], r)):
        offset = 0
        for other in sorted(placed, key=lambda r: program.tensors[r].offset):
            if born[other] > dies[root] or dies[other] < born[root]:
                continue
            start = program.tensors[other].offset
            if offset + sizes[root] <= start:
                break
            offset = max(offset, start + sizes[other])
        program.tensors[root].offset = offset
        placed.append(root)
        workspace = max(workspace, offset + sizes[root])
    for tensor in program.tensors:
        tensor.offset = program.tensors[tensor.root].offset
    return Sizes(workspace + SLACK, weights + SLACK, prepared + SLACK if prepared else 0)


def rooms(program: Program, alignment: int = DEVICE_ALIGNMENT) -> tuple[list[int], int]:
    """Give every tensor a buffer of its own while it lives, where parts of one may not be read and written at once.

    Returns the bytes of every buffer, and of the weights file. A constant's offset is its place there; any other's is
    the number of its buffer. Largest arrays first, each into the first buffer that is free.
    """
    weights = _in_a_row(program.constants, lambda size: -(-size // alignment) * alignment) + SLACK
    born, dies = _lifetimes(program)
    sizes: list[int] = []
    lodgers: list[list[int]] = []
    for root in sorted(born, key=lambda r: (-program.tensors[r].nbytes, r)):
        free = (
            room
            for room, others in enumerate(lodgers)
            if all(born[other] > dies[root] or dies[other] < born[root] for other in others)
        )
        room = next(free, len(sizes))
        if room == len(sizes):
            sizes.append(-(-max(program.tensors[root].nbytes, 4) // 4) * 4)
            lodgers.append([])
        lodgers[room].append(root)
        program.tensors[root].offset = room
    return sizes, weights


def _in_a_row(tensors: Iterable[Tensor], align: Callable[[int], int]) -> int:
    """Put tensors one after the other; their bytes."""
    size = 0
    for tensor in tensors:
        tensor.offset = size
        size += align(tensor.nbytes)
    return size


def _lifetimes(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """First and last call that touches each array of the workspace; inputs are there before, outputs after."""
    born: dict[int, int] = {}
    dies: dict[int, int] = {}

    def touch(index: int, step: int) -> None:
        root = program.tensors[index].root
        if not program.tensors[root].lasting:
            born.setdefault(root, step)
            dies[root] = step

    for step, call in enumerate(program.once, -1 - len(program.once)):
        for index in call.arguments:
            touch(index, step)
    for index in program.inputs:
        touch(index, -1)
    for step, call in enumerate(program.calls):
        for index in call.arguments:
            touch(index, step)
    for index in program.outputs:
        touch(index, len(program.calls))
    return born, dies
