"""An operator said in others, where it cannot say what is left of it after a cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_graphsurgeon as gs


class Spelled:
    """Nodes that say an operator in others, of numbers of one type."""

    def __init__(self, base: str, dtype: np.dtype) -> None:
        self._base, self._dtype, self.nodes = base, dtype, list[gs.Node]()

    def number(self, value: float) -> gs.Constant:
        """A constant."""
        return gs.Constant(f"{self._base}:{len(self.nodes)}:number", np.array(value, self._dtype))

    def made(self, op: str, *inputs: gs.Tensor, into: gs.Variable | None = None, **attrs: object) -> gs.Variable:
        """What an operator makes of some inputs."""
        name = f"{self._base}:{len(self.nodes)}"
        made = gs.Variable(name, self._dtype) if into is None else into
        self.nodes.append(gs.Node(op, name, attrs, list(inputs), [made]))
        return made

    def layer_norm(
        self,
        x: gs.Tensor,
        affine: Sequence[gs.Tensor],
        axes: Sequence[int],
        whole: int,
        left: int,
        epsilon: float,
        y: gs.Variable,
    ) -> None:
        """Layer normalisation of x, of which ``left`` of ``whole`` positions are there and the others would be zero."""

        def total(of: gs.Tensor) -> gs.Tensor:
            return self.made("ReduceSum", of, gs.Constant(f"{of.name}:axes", np.array(axes)), keepdims=1)

        mean = self.made("Mul", total(x), self.number(1 / whole))
        off = self.made("Sub", x, mean)
        zeros = self.made("Mul", self.made("Mul", mean, mean), self.number(whole - left))
        squares = self.made("Add", total(self.made("Mul", off, off)), zeros)
        steady = self.made("Add", self.made("Mul", squares, self.number(1 / whole)), self.number(epsilon))
        root = self.made("Sqrt", steady)
        last = len(affine) - 1
        result = self.made("Div", off, root, into=None if affine else y)
        for k, (op, parameter) in enumerate(zip(("Mul", "Add"), affine, strict=False)):
            result = self.made(op, result, parameter, into=y if k == last else None)

    def into(self, node: gs.Node) -> Iterable[gs.Node]:
        """Let ``node`` be the last of the nodes, and give the others."""
        *before, last = self.nodes
        node.op, node.domain, node.inputs, outputs = last.op, None, list(last.inputs), list(last.outputs)
        node.attrs.clear()
        last.inputs.clear()
        last.outputs.clear()
        node.outputs = outputs
        return before
