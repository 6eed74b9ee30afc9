"""LSTM in Relax: one matrix product for all steps, then a kernel of ours for the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphprune.compiler.kernels.lstm import Lstm, lstm_kernel
from graphprune.compiler.schedule import final
from graphprune.compiler.targets import Target


def lstm(
    builder: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any], target: Target
) -> tuple[relax.Tuple, list[relax.Var]] | None:
    """Y, Y_h and Y_c of an ONNX LSTM with known weights, and the variables on the way that take time to compute.

    None for one with peepholes, lengths or other activations.
    """
    given: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
    x, w, r, bias, lengths, h, c, peepholes = given
    usual = [b"Sigmoid", b"Tanh", b"Tanh"]
    odd = [
        lengths is not None,
        peepholes is not None,
        "clip" in attrs,
        attrs.get("input_forget", 0),
        attrs.get("layout", 0),
        attrs.get("activations", usual) not in (usual, usual * 2),
        not all(isinstance(i, tvm.ir.GenericConst) for i in (w, r) + ((bias,) if bias is not None else ())),
    ]
    if any(odd) or target.device:
        return None
    steps, batch, size = (int(d) for d in x.ty.shape.values)
    weights, recurrent = w.value.numpy(), r.value.numpy()
    directions, hidden = len(recurrent), recurrent.shape[2]
    offsets = np.zeros((directions, 8 * hidden), np.float32) if bias is None else bias.value.numpy()
    outputs, timed = [], []
    for d in range(directions):
        backward = d == 1 or attrs.get("direction", b"forward") == b"reverse"
        rows = relax.op.reshape(x, (steps * batch, size))
        product = relax.op.matmul(rows, relax.const(np.ascontiguousarray(weights[d].T)))
        both = offsets[d, : 4 * hidden] + offsets[d, 4 * hidden :]
        entering = builder.emit(relax.op.add(product, relax.const(both)), name_hint="node")
        gates = relax.op.reshape(entering, (steps, batch, 4 * hidden))
        states = [_state(initial, d, batch, hidden) for initial in (h, c)]
        kernel = final(lstm_kernel(Lstm(steps, batch, hidden, backward), target), f"{steps} steps of {hidden}")
        function = builder.add_func(kernel, "lstm")
        shapes = [(steps, batch, hidden), (batch, hidden), (batch, hidden)]
        arguments = [gates, relax.const(np.ascontiguousarray(recurrent[d].T)), *states]
        made = builder.emit(
            relax.call_tir(function, arguments, out_ty=[relax.TensorType(shape, "float32") for shape in shapes]),
            name_hint="node",
        )
        timed += [entering, made]
        outputs.append([builder.emit(relax.TupleGetItem(made, k)) for k in range(3)])
    y, *last = (
        [relax.op.expand_dims(part, axis) for part in parts]
        for parts, axis in zip(zip(*outputs, strict=True), (1, 0, 0), strict=True)
    )
    joined = [relax.op.concat(y, axis=1), *(relax.op.concat(parts, axis=0) for parts in last)]
    return relax.Tuple([builder.emit(part) for part in joined]), timed


def _state(given: Any, direction: int, batch: int, hidden: int) -> Any:
    """The initial state of one direction."""
    if given is None:
        return relax.const(np.zeros((batch, hidden), np.float32))
    taken = relax.op.strided_slice(given, axes=[0], begin=[direction], end=[direction + 1])
    return relax.op.reshape(taken, (batch, hidden))
