"""LSTM and GRU in Relax: one matrix product for all steps, then a kernel of ours for the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphprune.compiler.kernels.recurrent import Recurrent, gru_kernel, lstm_kernel
from graphprune.compiler.schedule import final
from graphprune.compiler.targets import Target

_USUAL = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}  # activations of one direction
OPERATORS = tuple(_USUAL)


def recurrent(
    operator: str, builder: relax.BlockBuilder, inputs: Any, attrs: dict[str, Any], target: Target
) -> tuple[relax.Tuple, list[relax.Var]] | None:
    """Y and the last states of an ONNX LSTM or GRU with known weights, and the variables that take time to compute.

    None for one with peepholes, lengths or other activations.
    """
    given: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
    x, w, r, bias, lengths, *initial, peepholes = given
    usual = _USUAL[operator]
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
    weights, matrices = w.value.numpy(), r.value.numpy()
    directions, wide, hidden = matrices.shape
    offsets = np.zeros((directions, 2 * wide), np.float32) if bias is None else bias.value.numpy()
    outputs, timed = [], []
    for d in range(directions):
        backward = d == 1 or attrs.get("direction", b"forward") == b"reverse"
        layer = Recurrent(steps, batch, hidden, backward)
        entering, inside = offsets[d, :wide], offsets[d, wide:].copy()
        states = [_state(value, d, batch, hidden) for value in initial[: 1 + (operator == "LSTM")]]
        between = [relax.const(np.ascontiguousarray(matrices[d].T))]
        if operator == "LSTM":
            function = lstm_kernel(layer, target)
        else:
            after = bool(attrs.get("linear_before_reset", 0))
            function = gru_kernel(layer, after, target)
            between.append(relax.const(inside[2 * hidden :].copy()))
            inside[2 * hidden :] *= not after  # else the kernel adds it
        rows = relax.op.reshape(x, (steps * batch, size))
        product = relax.op.matmul(rows, relax.const(np.ascontiguousarray(weights[d].T)))
        summed = builder.emit(relax.op.add(product, relax.const(entering + inside)), name_hint="node")
        gates = relax.op.reshape(summed, (steps, batch, wide))
        variable = builder.add_func(final(function, f"{steps} steps of {hidden}"), operator.lower())
        shapes = [(steps, batch, hidden), *[(batch, hidden)] * len(states)]
        made = builder.emit(
            relax.call_tir(
                variable,
                [gates, *between, *states],
                out_ty=[relax.TensorType(shape, "float32") for shape in shapes],
            ),
            name_hint="node",
        )
        timed += [summed, made]
        outputs.append([builder.emit(relax.TupleGetItem(made, k)) for k in range(len(shapes))])
    y, *last = (
        [relax.op.expand_dims(part, axis) for part in parts]
        for parts, axis in zip(zip(*outputs, strict=True), (1, 0, 0)[: len(outputs[0])], strict=True)
    )
    joined = [relax.op.concat(y, axis=1), *(relax.op.concat(parts, axis=0) for parts in last)]
    return relax.Tuple([builder.emit(part) for part in joined]), timed


def _state(given: Any, direction: int, batch: int, hidden: int) -> Any:
    """The initial state of one direction."""
    if given is None:
        return relax.const(np.zeros((batch, hidden), np.float32))
    taken = relax.op.strided_slice(given, axes=[0], begin=[direction], end=[direction + 1])
    return relax.op.reshape(taken, (batch, hidden))
