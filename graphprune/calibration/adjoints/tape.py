"""Nodes of a gradient, as they are added to a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphprune.rules import Call


class Tape:
    """Nodes that are being added to a model whose numbers are float32."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[gs.Node] = []
        self._opset = opset

    def __call__(self, op: str, *inputs: gs.Tensor | np.ndarray | float, **attrs: Any) -> gs.Variable:
        """The output of a new node; floating-point numbers are taken as float32."""
        name = f"gradient:{len(self.nodes)}"
        tensors = [t if isinstance(t, gs.Tensor) else _constant(f"{name}:{k}", t) for k, t in enumerate(inputs)]
        output = gs.Variable(name, np.float32)
        self.nodes.append(gs.Node(op, name, attrs=attrs, inputs=tensors, outputs=[output]))
        return output

    def reduced(self, op: str, x: gs.Tensor, axes: Sequence[int]) -> gs.Variable:
        """``ReduceSum`` or ``ReduceMean`` over some axes, which stay at size 1."""
        if self._opset < {"ReduceSum": 13, "ReduceMean": 18}[op]:
            return self(op, x, axes=list(axes), keepdims=1)
        return self(op, x, np.array(axes, np.int64), keepdims=1)

    def unsqueezed(self, x: gs.Tensor, axes: Sequence[int]) -> gs.Variable:
        """``x`` with axes of size 1 put in."""
        if self._opset < 13:
            return self("Unsqueeze", x, axes=list(axes))
        return self("Unsqueeze", x, np.array(axes, np.int64))

    def where(self, x: gs.Tensor, *conditions: gs.Tensor) -> gs.Tensor:
        """Finite ``x`` where all conditions hold, else 0; onnxruntime multiplies faster than it computes ``Where``."""
        for condition in conditions:
            x = self("Mul", x, self("Cast", condition, to=TensorProto.FLOAT))
        return x


def _constant(name: str, values: np.ndarray | float) -> gs.Constant:
    array = np.asarray(values)
    return gs.Constant(name, np.ascontiguousarray(array.astype(np.float32) if array.dtype.kind == "f" else array))


Parts = Iterator[tuple[int, gs.Tensor]]
"""Input number → what this node adds to the gradient of that input."""

Adjoint = Callable[[Tape, gs.Node, Call, gs.Tensor], Parts]


def narrowed(tape: Tape, dx: gs.Tensor, call: Call, k: int) -> Parts:
    """The gradient of input ``k``, summed over the axes along which the input was repeated."""
    operand = call.inputs[k]
    if operand is None or operand.rank != call.y.rank:
        return
    repeated = [axis for axis in range(operand.rank) if operand.shape[axis] != call.y.shape[axis]]
    yield k, tape.reduced("ReduceSum", dx, repeated) if repeated else dx
