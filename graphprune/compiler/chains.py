"""What a kernel computes beside its operator: the chain of operators that only it feeds.

Arithmetic with constants per output channel is folded into scale and bias (BatchNorm is such a chain), then at most one
addition of another tensor, then bounds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.padding import Window


@dataclass
class Chain:
    """The operators a kernel computes: the first, what follows it, and how the values combine.

    `out = clip(scale · first + bias + residual)`, with scale and bias per position of `axis`.
    """

    first: Any
    last: Any
    axis: int
    scale: np.ndarray
    bias: np.ndarray
    residual: Any = None
    low: float | None = None
    high: float | None = None
    taken: list[Any] = field(default_factory=list)

    @property
    def epilogue(self) -> Epilogue:
        """What is done to a sum before it is written."""
        return Epilogue(self.residual is not None, self.low, self.high)


class Graph:
    """Who makes and who reads each variable of `main`."""

    def __init__(self, main: relax.Function) -> None:
        self.producer: dict[Any, Any] = {}
        self.readers: dict[Any, list[Any]] = {}
        self.uses: Counter[Any] = Counter()
        self.taken: set[Any] = set()  # variables that some kernel already computes on its way
        for block in main.body.blocks:
            for binding in block.bindings:
                self.producer[binding.var] = binding.value
                for variable in _variables(binding.value):
                    self.readers.setdefault(variable, []).append(binding.var)
                    self.uses[variable] += 1
        for variable in _variables(main.body.body):
            self.uses[variable] += 1

    def chain(self, variable: Any, axis: int, channels: int) -> Chain:
        """Everything after `variable` that its kernel can take along."""
        ones = np.ones(channels, np.float32)
        chain = Chain(variable, variable, axis, ones, 0 * ones, taken=[variable])
        while self.uses[chain.last] == 1 and self.readers.get(chain.last):
            reader = self.readers[chain.last][0]
            call = self.producer[reader]
            if reader in self.taken or not operator(call) or not same_shape(call, chain.last):
                break
            if not (_bound(chain, call) or _arithmetic(chain, call) or self._residual(chain, call)):
                break
            chain.last = reader
            chain.taken.append(reader)
        return chain

    def padded(self, window: Window, image: Any) -> tuple[Window, Any]:
        """`window` over the input of a zero padding that makes `image`, where one does."""
        call: Any = self.producer.get(image)
        if not operator(call) or call.op.name != "relax.nn.pad" or call.attrs.pad_mode != "constant":
            return window, image
        widths = [int(w) for w in call.attrs.pad_width]
        if float(call.attrs.pad_value) != 0 or any(widths[:4]):
            return window, image
        top, bottom, left, right = widths[4:]
        pad = (window.pad[0] + top, window.pad[1] + left, window.pad[2] + bottom, window.pad[3] + right)
        height, width = shape_of(call.args[0])[2:]
        return replace(window, image=(height, width), pad=pad), call.args[0]

    def _residual(self, chain: Chain, call: Any) -> bool:
        if call.op.name != "relax.add" or chain.residual is not None or chain.low is not None or chain.high is not None:
            return False
        other = call.args[1] if call.args[0].same_as(chain.last) else call.args[0]
        if not isinstance(other, relax.Var) or not same_shape(other, chain.last):
            return False
        chain.residual = other
        return True


def operator(expr: Any) -> bool:
    """Whether an expression calls an operator of Relax."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op)


def _variables(expr: Any) -> list[Any]:
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Call):
        return [v for a in expr.args for v in _variables(a)]
    if isinstance(expr, relax.Tuple):
        return [v for a in expr.fields for v in _variables(a)]
    if isinstance(expr, relax.TupleGetItem):
        return _variables(expr.tuple_value)
    return []


def shape_of(expr: Any) -> tuple[int, ...]:
    """The static shape of an expression."""
    return tuple(int(d) for d in expr.ty.shape.values)


def float32(expr: Any) -> bool:
    """Whether an expression is an array of float32."""
    return isinstance(expr.ty, relax.TensorType) and str(expr.ty.dtype) == "float32"


def same_shape(a: Any, b: Any) -> bool:
    """Whether two expressions are arrays of float32 of one shape."""
    return float32(a) and float32(b) and shape_of(a) == shape_of(b)


def constant(expr: Any) -> np.ndarray | None:
    """The value of a constant; None for anything else."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def _bound(chain: Chain, call: Any) -> bool:
    """Take along a relu or a clip; a second one tightens the first."""
    name = call.op.name
    low, high = None, None
    if name == "relax.nn.relu":
        low = 0.0
    elif name == "relax.nn.relu6":
        low, high = 0.0, 6.0
    elif name == "relax.clip":
        low, high = (float(getattr(a, "value", a)) for a in call.args[1:])
    elif name in ("relax.maximum", "relax.minimum"):
        values = [c for c in map(constant, call.args) if c is not None]
        if len(values) != 1 or values[0].size != 1:
            return False
        low, high = (float(values[0].item()), None) if name == "relax.maximum" else (None, float(values[0].item()))
    else:
        return False
    if low is not None and chain.high is not None:
        return False  # a lower bound after an upper one: the order would change
    chain.low = low if chain.low is None else chain.low if low is None else max(low, chain.low)
    chain.high = high if chain.high is None else chain.high if high is None else min(high, chain.high)
    return True


def _arithmetic(chain: Chain, call: Any) -> bool:
    """Fold arithmetic with a constant per channel into scale and bias."""
    if chain.residual is not None or chain.low is not None or chain.high is not None or len(call.args) != 2:
        return False
    left = call.args[0].same_as(chain.last)
    value = constant(call.args[1] if left else call.args[0])
    if value is None:
        return False
    rank = len(shape_of(chain.last))
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(d != 1 for i, d in enumerate(shape) if i != chain.axis % rank):
        return False
    value = np.broadcast_to(value.reshape(-1), chain.bias.shape)
    name = call.op.name
    if name == "relax.add":
        chain.bias = chain.bias + value
    elif name == "relax.subtract" and left:
        chain.bias = chain.bias - value
    elif name == "relax.multiply":
        chain.scale, chain.bias = chain.scale * value, chain.bias * value
    elif name == "relax.divide" and left:
        chain.scale, chain.bias = chain.scale / value, chain.bias / value
    else:
        return False
    return True


def single(variable: Any) -> Chain:
    """An operator that takes nothing along."""
    return Chain(variable, variable, 1, np.empty(0), np.empty(0), taken=[variable])
