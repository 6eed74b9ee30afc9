"""One row by a sparse matrix: as fast as the weights that are left are read.

There is one value for each step to multiply with, so vectors run over the outputs of a block, which lie side by side
among the packed values. Several steps of a block are summed apart, to hide the latency of a multiply-add; blocks are
filled up to as many with zeros.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm.tirx.script.builder as T  # noqa: N812
from tvm import tirx
from tvm.script.ir_builder import IRBuilder

from graphprune.compiler.kernels.matmul import Matmul
from graphprune.compiler.kernels.sparse import Packed
from graphprune.compiler.kernels.tiling import BLOCKS, reading
from graphprune.compiler.kernels.vectors import Share, arguments, ramp, splat
from graphprune.compiler.targets import Target

_APART = 4  # sums of a block
_STEP = 2.0  # issue slots: two loads and a multiply-add
_BLOCK = 20.0  # to begin and to end one


def heights(matmul: Matmul, target: Target) -> list[int]:
    """Heights of blocks that a vector holds and that divide the outputs; none for more than one row."""
    one = matmul.batch == matmul.rows == 1
    return [h for h in BLOCKS if one and h <= target.lanes and not matmul.columns % h]


def pack_row(b: np.ndarray, height: int) -> Packed:
    """`b`, float32 [depth, columns], without its zero blocks; offsets are values of k."""
    blocks = b.T.reshape(-1, height, len(b))
    values, offsets, pointers = [], [], [0]
    for block in blocks:
        kept = np.flatnonzero(block.any(0))
        filler = -len(kept) % _APART
        values.append(np.pad(block[:, kept], [(0, 0), (0, filler)]).T)
        offsets.append(np.pad(kept, (0, filler)))
        pointers.append(pointers[-1] + len(kept) + filler)
    packed = Packed(
        np.concatenate(values).astype(np.float32),
        np.concatenate(offsets).astype(np.int32),
        np.array(pointers, np.int32),
    )
    if packed.steps:
        return packed
    return replace(packed, values=np.zeros((1, height), np.float32), offsets=np.zeros(1, np.int32))  # none is empty


def cost(b: np.ndarray, height: int) -> float:
    """Issue slots that the cost model expects."""
    kept = b.reshape(len(b), -1, height).any(2).sum(0)
    steps = float((-(-kept // _APART) * _APART).sum())
    return _STEP * steps + _BLOCK * len(kept) + reading(4 * (height + 1) * steps)


def row_kernel(matmul: Matmul, height: int, steps: int) -> tirx.PrimFunc:
    """The function (a, values, offsets, pointers, bias [columns], residual if any, out)."""
    blocks, at = matmul.columns // height, ramp(0, height)
    with IRBuilder() as builder, T.prim_func(True, True):
        T.func_name("gemv")
        T.func_attr({"tirx.noalias": True})
        a, values, offsets, pointers, bias, residual, out = arguments(
            "offsets",
            "pointers",
            a=matmul.a_shape,
            values=(steps, height),
            offsets=(steps,),
            pointers=(blocks + 1,),
            bias=(matmul.columns,),
            residual=matmul.out_shape if matmul.epilogue.residual else None,
            out=matmul.out_shape,
        )
        with Share().serial(blocks) as block:
            place, first = ramp(block * height, height), pointers[block]
            sums = [T.alloc_buffer((height,), "float32") for _ in range(_APART)]
            for number, total in enumerate(sums):
                T.buffer_store(total, splat(tirx.const(0.0, "float32"), height) if number else bias[place], [at])
            with T.serial(0, (pointers[block + 1] - first) // _APART) as group:
                for number, total in enumerate(sums):
                    step = first + group * _APART + number
                    product = splat(a[offsets[step]], height) * values[ramp(step * height, height)]
                    T.buffer_store(total, total[at] + product, [at])
            value = (sums[0][at] + sums[1][at]) + (sums[2][at] + sums[3][at])
            if residual is not None:
                value = value + residual[place]
            T.buffer_store(out, matmul.epilogue.clip(value, height), [place])
    return builder.get()
