"""Evaluate Relax operators on constants with numpy.

TVM's own FoldConstant compiles one function per shape for this, which costs a second on a small network; the operators
that importers put around weights are a handful, and numpy has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Op

_Fold = Callable[..., np.ndarray]


def _shape(call: Any) -> tuple[int, ...] | None:
    shape = call.ty.shape
    if not isinstance(shape, relax.ShapeExpr):
        return None
    return tuple(int(d) for d in shape.values)


_ELEMENTWISE: dict[str, _Fold] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.negative": np.negative,
    "relax.sqrt": np.sqrt,
    "relax.rsqrt": lambda x: 1 / np.sqrt(x),
    "relax.exp": np.exp,
    "relax.abs": np.abs,
}
_RESHAPES = {"relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"}


def evaluate(call: Any, arrays: list[np.ndarray]) -> np.ndarray | None:
    """The value of `call` on constant `arrays`, or None where numpy would not give exactly what Relax does."""
    name = call.op.name
    shape = _shape(call)
    dtype = str(call.ty.dtype)
    if shape is None:
        return None
    if name in _RESHAPES:
        return arrays[0].reshape(shape)
    if name == "relax.broadcast_to":
        return np.broadcast_to(arrays[0], shape)
    if name == "relax.astype":
        return arrays[0].astype(dtype)
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        return np.transpose(arrays[0], None if axes is None else [int(a) for a in axes])
    if name in _ELEMENTWISE and np.issubdtype(np.dtype(dtype), np.floating):
        return _ELEMENTWISE[name](*arrays)
    return None


@relax.expr_functor.mutator
class _Folder(relax.PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, Op) or not isinstance(call.ty, relax.TensorType):
            return call
        arrays = []
        for argument in call.args:
            value = self.lookup_binding(argument) if isinstance(argument, relax.Var) else argument
            if isinstance(value, tvm.ir.GenericConst):
                arrays.append(value.value.numpy())
            elif not isinstance(value, relax.ShapeExpr):
                return call
        result = evaluate(call, arrays) if arrays else None
        if result is None:
            return call
        return relax.const(
            np.ascontiguousarray(result, dtype=str(call.ty.dtype)).reshape(result.shape), str(call.ty.dtype)
        )


def fold_constants(module: tvm.IRModule) -> tvm.IRModule:
    """`module` with the operators on constants evaluated; the weights are read, never written."""
    module["main"] = _Folder(module).visit_expr(module["main"])
    return relax.transform.DeadCodeElimination()(relax.transform.CanonicalizeBindings()(module))
