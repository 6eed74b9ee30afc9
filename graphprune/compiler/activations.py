"""Bounded activations by polynomials: arithmetic only, so that loops over them become vector code.

LLVM calls the C library once per element for exp, erf and tanh, which costs more than the layer before. The polynomials
are TVM's (Cephes, and Eigen's rational approximations), accurate to a few units in the last place where the result is
bounded; plain Exp is left alone because they saturate instead of overflowing to infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, topi


def _sigmoid(x: te.Tensor) -> te.Tensor:
    one = tvm.tirx.const(1, "float32")
    return topi.divide(one, topi.add(one, topi.fast_exp(topi.negative(x))))


def _silu(x: te.Tensor) -> te.Tensor:
    return topi.multiply(x, _sigmoid(x))


def _gelu(x: te.Tensor) -> te.Tensor:
    half, one, root = (tvm.tirx.const(v, "float32") for v in (0.5, 1.0, 0.5**0.5))
    return topi.multiply(topi.multiply(x, half), topi.add(topi.fast_erf(topi.multiply(x, root)), one))


_FAST: dict[str, Callable[[Any], tuple[Callable[..., te.Tensor], list[Any]]]] = {
    "relax.nn.softmax": lambda call: (topi.nn.fast_softmax, [call.attrs.axis]),
    "relax.erf": lambda call: (topi.fast_erf, []),
    "relax.tanh": lambda call: (topi.fast_tanh, []),
    "relax.sigmoid": lambda call: (_sigmoid, []),
    "relax.nn.gelu": lambda call: (_gelu, []),
    "relax.nn.silu": lambda call: (_silu, []),
}


@relax.expr_functor.mutator
class _Activations(relax.PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        rule = _FAST.get(getattr(call.op, "name", ""))
        if rule is None or str(call.ty.dtype) != "float32":
            return call
        function, attributes = rule(call)
        return self.builder_.call_te(function, call.args[0], *attributes)


def use_polynomials(module: tvm.IRModule) -> tvm.IRModule:
    """`module` with softmax, erf, tanh, sigmoid, gelu and silu of float32 computed by arithmetic alone."""
    mutator = _Activations(module)
    mutator.builder_.update_func(module.get_global_var("main"), mutator.visit_expr(module["main"]))
    return mutator.builder_.get()
