"""Convolutions the other way: from a change of what one made, that of what it read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.calibration.adjoints.tape import Parts, Tape
from graphprune.model.session import on_device
from graphprune.rules import Call


def transposed(
    tape: Tape,
    call: Call,
    dy: gs.Tensor,
    weight: np.ndarray,
    *,
    group: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: np.ndarray,
) -> Parts:
    """The gradient of ``call.x``, input 0; nothing where windows hang over its edge.

    Without strides that is a convolution by the kernel turned round, which is faster than ``ConvTranspose``. On CUDA it
    is one with strides too: cuDNN adds up what a transposed convolution makes in any order, so that the same inputs
    would not be found twice.

    Args:
        dy: the gradient of the outputs, at the places of ``call.y``.
        weight: [outputs, inputs of a group, *kernel].
        pads: before and after each spatial axis, int [axes, 2].
    """
    reach = np.array(dilations) * (np.array(weight.shape[2:]) - 1) + 1
    rest = unseen(call, strides, reach, pads)
    if rest.min() < 0:
        return
    turned = reach[:, None] - 1 - pads
    turned[:, 1] += rest
    if turned.min() < 0 or (max(strides) > 1 and not on_device()):
        attrs = {
            "group": group,
            "strides": list(strides),
            "dilations": list(dilations),
            "pads": pads.T.ravel().tolist(),
        }
        yield 0, tape("ConvTranspose", dy, weight, output_padding=rest.tolist(), **attrs)
        return
    if max(strides) > 1:
        dy = _spread(tape, dy, strides, (np.array(call.y.shape[2:]) - 1) * strides + 1)
    inputs_first = weight.reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
    kernel = np.flip(inputs_first.reshape(-1, *inputs_first.shape[2:]), tuple(range(2, weight.ndim)))
    yield 0, tape("Conv", dy, kernel, group=group, dilations=list(dilations), pads=turned.T.ravel().tolist())


def unseen(call: Call, strides: Sequence[int], reach: Sequence[int] | np.ndarray, pads: np.ndarray) -> np.ndarray:
    """Rows and columns of ``call.x`` that no window looks at, int [axes]; negative where the last is cut off."""
    ends = (np.array(call.y.shape[2:]) - 1) * strides + reach
    return np.array(call.x.shape[2:]) + pads.sum(axis=1) - ends


def _spread(tape: Tape, x: gs.Tensor, strides: Sequence[int], lengths: np.ndarray) -> gs.Tensor:
    """Zeros between the places of the spatial axes, which are ``lengths`` long then."""
    rank = len(strides)
    zeros = np.zeros((2, 2 + 2 * rank), np.int64)
    zeros[1, 3::2] = np.array(strides) - 1
    spread = tape("Pad", tape.unsqueezed(x, [*range(3, 3 + 2 * rank, 2)]), zeros.ravel())
    whole = np.array([0, 0, *(lengths + np.array(strides) - 1)], np.int64)
    ends = np.array(lengths, np.int64)
    return tape("Slice", tape("Reshape", spread, whole), np.zeros_like(ends), ends, np.arange(2, 2 + rank))
