"""Choose kernels: replace Relax operators, with what follows them, by calls of scheduled TIR functions.

A convolution or matrix product takes along the chain of operators that only it feeds: arithmetic with constants per
output channel is folded into weights and bias (BatchNorm is such a chain), then at most one addition of another tensor,
then bounds. What is not recognised stays for TVM's legalisation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from graphprune.compiler.kernels.conv import Conv
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.matmul import Matmul
from graphprune.compiler.kernels.norm import norm_kernel
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.kernels.rows import concat_kernel, reduce_kernel, softmax_kernel
from graphprune.compiler.kernels.window import Windowed, average_weights, window_kernel
from graphprune.compiler.schedule import final
from graphprune.compiler.targets import Target
from graphprune.compiler.ways import Pick, Way, ways_of_conv, ways_of_product


@dataclass
class _Chain:
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
        return Epilogue(self.residual is not None, self.low, self.high)


@dataclass(frozen=True)
class _Kernel:
    """A function to call with these Relax arguments; `how` is the shape of its loops in words, `why` the reason."""

    name: str
    function: tirx.PrimFunc
    arguments: list[Any]
    how: str = ""
    why: str = ""


def select_kernels(module: tvm.IRModule, target: Target, pick: Pick) -> tuple[tvm.IRModule, dict[str, list[str]]]:
    """`module` with kernels called where one fits, and the variables each call computes, by the result's variable.

    `pick` takes one of the ways to compute a layer.
    """
    main = module["main"]
    graph = _Graph(main)
    chosen: dict[Any, _Kernel] = {}
    covers: dict[str, list[str]] = {}
    for variable, call in graph.producer.items():
        if variable in graph.taken or not _operator(call):
            continue
        rule = _RULES.get(call.op.name)
        if rule is None or not _float32(call):
            continue
        found = rule(graph, variable, call, target, pick)
        if found is not None:
            chain, kernel = found
            chosen[chain.last] = kernel
            graph.taken.update(chain.taken)
            covers[str(chain.last.name)] = [str(v.name) for v in chain.taken]
    rewriter = _Rewriter(module, chosen, graph.taken - set(chosen))
    rewriter.builder_.update_func(module.get_global_var("main"), rewriter.visit_expr(main))
    return rewriter.builder_.get(), covers


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, module: tvm.IRModule, chosen: dict[Any, _Kernel], gone: set[Any]) -> None:
        super().__init__(module)
        self.chosen, self.gone = chosen, gone

    def visit_var_binding_(self, binding: Any) -> None:
        if binding.var in self.gone:
            return
        kernel = self.chosen.get(binding.var)
        if kernel is not None:
            variable = self.builder_.add_func(final(kernel.function, kernel.how, kernel.why), kernel.name)
            arguments = [self.visit_expr(a) for a in kernel.arguments]
            call = relax.call_tir(variable, relax.Tuple(arguments), out_ty=binding.var.ty)
            binding = relax.VarBinding(binding.var, self.builder_.normalize(call))
        super().visit_var_binding_(binding)


class _Graph:
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

    def chain(self, variable: Any, axis: int, channels: int) -> _Chain:
        """Everything after `variable` that its kernel can take along."""
        ones = np.ones(channels, np.float32)
        chain = _Chain(variable, variable, axis, ones, 0 * ones, taken=[variable])
        while self.uses[chain.last] == 1 and self.readers.get(chain.last):
            reader = self.readers[chain.last][0]
            call = self.producer[reader]
            if reader in self.taken or not _operator(call) or not _same(call, chain.last):
                break
            if not (_bound(chain, call) or _arithmetic(chain, call) or self._residual(chain, call)):
                break
            chain.last = reader
            chain.taken.append(reader)
        return chain

    def padded(self, window: Window, image: Any) -> tuple[Window, Any]:
        """`window` over the input of a zero padding that makes `image`, where one does."""
        call: Any = self.producer.get(image)
        if not _operator(call) or call.op.name != "relax.nn.pad" or call.attrs.pad_mode != "constant":
            return window, image
        widths = [int(w) for w in call.attrs.pad_width]
        if float(call.attrs.pad_value) != 0 or any(widths[:4]):
            return window, image
        top, bottom, left, right = widths[4:]
        pad = (window.pad[0] + top, window.pad[1] + left, window.pad[2] + bottom, window.pad[3] + right)
        height, width = _shape(call.args[0])[2:]
        return replace(window, image=(height, width), pad=pad), call.args[0]

    def _residual(self, chain: _Chain, call: Any) -> bool:
        if call.op.name != "relax.add" or chain.residual is not None or chain.low is not None or chain.high is not None:
            return False
        other = call.args[1] if call.args[0].same_as(chain.last) else call.args[0]
        if not isinstance(other, relax.Var) or not _same(other, chain.last):
            return False
        chain.residual = other
        return True


def _operator(expr: Any) -> bool:
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


def _shape(expr: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape.values)


def _float32(expr: Any) -> bool:
    return isinstance(expr.ty, relax.TensorType) and str(expr.ty.dtype) == "float32"


def _same(a: Any, b: Any) -> bool:
    return _float32(a) and _float32(b) and _shape(a) == _shape(b)


def _constant(expr: Any) -> np.ndarray | None:
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def _bound(chain: _Chain, call: Any) -> bool:
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
        values = [c for c in map(_constant, call.args) if c is not None]
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


def _arithmetic(chain: _Chain, call: Any) -> bool:
    """Fold arithmetic with a constant per channel into scale and bias."""
    if chain.residual is not None or chain.low is not None or chain.high is not None or len(call.args) != 2:
        return False
    left = call.args[0].same_as(chain.last)
    value = _constant(call.args[1] if left else call.args[0])
    if value is None:
        return False
    rank = len(_shape(chain.last))
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


_Found = tuple[_Chain, _Kernel] | None


def _window(call: Any, kernel: tuple[int, int], out: tuple[int, ...]) -> Window:
    attrs = call.attrs
    strides, dilation = (tuple(int(v) for v in a) for a in (attrs.strides, attrs.dilation))
    pad = tuple(int(v) for v in attrs.padding)
    pad = pad * 4 if len(pad) == 1 else pad * 2 if len(pad) == 2 else pad
    return Window(_shape(call.args[0])[2:], kernel, strides, dilation, pad, out[2:])  # type: ignore[arg-type]


def _conv2d(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    weight = _constant(call.args[1])
    plain = call.attrs.data_layout == "NCHW" and call.attrs.kernel_layout == "OIHW"
    if weight is None or not plain or weight.dtype != np.float32:
        return None
    batch, channels = _shape(call.args[0])[:2]
    out = _shape(call)
    filters, groups = out[1], int(call.attrs.groups)
    chain = graph.chain(variable, 1, filters)
    window, image = graph.padded(_window(call, weight.shape[2:], out), call.args[0])
    weight = weight * chain.scale[:, None, None, None]
    residual = [chain.residual] if chain.residual is not None else []
    if groups == channels and weight.shape[1] == 1:
        op = Windowed("depthwise", batch, channels, filters // channels, window, chain.epilogue)
        arguments = [image, relax.const(weight.reshape(filters, -1)), relax.const(chain.bias), *residual]
        return chain, _Kernel("depthwise", window_kernel(op, target), arguments, f"{window}")
    if groups == 1 and out[2:] == (1, 1) and window.kernel == window.image and not any(window.pad):
        matrix = weight.reshape(filters, -1).T
        product = Matmul(1, batch, filters, matrix.shape[0], _shape(image), None, out, chain.epilogue)
        return chain, _product("conv", product, image, matrix, chain, target, pick)
    conv = Conv(batch, channels, filters, groups, window, chain.epilogue)
    way, why = pick(ways_of_conv(conv, weight, target, pick.few))
    return chain, _called("conv", way, image, chain, why, f"{window}, ")


def _called(what: str, way: Way, image: Any, chain: _Chain, why: str, layer: str = "", b: Any = None) -> _Kernel:
    """The call of a way's kernel: what flows in, its constants or a `b` that is none, bias, residual."""
    function, constants = way.make()
    second = [relax.const(array) for array in constants] if b is None else [b]
    residual = [chain.residual] if chain.residual is not None else []
    name = {"dense": what, "sparse": f"sparse_{what}"}.get(way.kind, way.kind.lower())
    arguments = [image, *second, relax.const(chain.bias.astype(np.float32)), *residual]
    return _Kernel(name, function, arguments, layer + way.loops, why)


def _product(name: str, op: Matmul, a: Any, b: Any, chain: _Chain, target: Target, pick: Pick) -> _Kernel:
    matrix = b if isinstance(b, np.ndarray) else None
    way, why = pick(ways_of_product(op, matrix, target, pick.few))
    return _called(name, way, a, chain, why, b=b if matrix is None else None)


def _matmul(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    a, b = call.args
    out, a_shape, b_shape = _shape(call), _shape(a), _shape(b)
    if min(len(a_shape), len(b_shape)) < 2 or not (_float32(a) and _float32(b)):
        return None
    rows, depth, columns = a_shape[-2], a_shape[-1], b_shape[-1]
    constant = _constant(b)
    chain = graph.chain(variable, -1, columns)
    if constant is not None and constant.size == depth * columns:
        rows = int(np.prod(a_shape[:-1]))
        op = Matmul(1, rows, columns, depth, a_shape, None, out, chain.epilogue)
        matrix = constant.reshape(depth, columns) * chain.scale
        return chain, _product("matmul", op, a, matrix, chain, target, pick)
    if int(np.prod(b_shape[:-2])) == 1:  # one b for all: the leading axes of a are rows
        rows, batch = int(np.prod(a_shape[:-1])), 1
    elif a_shape[:-2] == b_shape[:-2]:
        batch = int(np.prod(a_shape[:-2]))
    else:
        return None
    if np.any(chain.scale != 1):  # a dynamic b cannot take the scale in
        chain = _Chain(variable, variable, -1, np.ones(columns), np.zeros(columns), taken=[variable])
    op = Matmul(batch, rows, columns, depth, a_shape, b_shape, out, chain.epilogue)
    return chain, _product("matmul", op, a, b, chain, target, pick)


def _pool(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    attrs = call.attrs
    if attrs.layout != "NCHW":
        return None
    out = _shape(call)
    window = _window(call, tuple(int(v) for v in attrs.pool_size), out)  # type: ignore[arg-type]
    average = call.op.name == "relax.nn.avg_pool2d"
    if average and attrs.ceil_mode:
        return None  # how windows beyond the padding count is a matter of version
    chain = _single(variable)
    op = Windowed("average" if average else "max", out[0], out[1], 1, window, Epilogue())
    scale = [relax.const(average_weights(window, bool(attrs.count_include_pad)))] if average else []
    return chain, _Kernel("pool", window_kernel(op, target), [call.args[0], *scale], f"{op.mode}, {window}")


def _single(variable: Any) -> _Chain:
    """An operator that takes nothing along."""
    return _Chain(variable, variable, 1, np.empty(0), np.empty(0), taken=[variable])


def _reduce(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    shape, out = _shape(call.args[0]), _shape(call)
    axes = range(len(shape)) if call.attrs.axis is None else sorted(int(a) % len(shape) for a in call.attrs.axis)
    if not axes or list(axes) != list(range(axes[0], len(shape))):
        return None  # only the trailing axes are consecutive values
    mode: Any = call.op.name.removeprefix("relax.")
    return _single(variable), _Kernel(mode, reduce_kernel(mode, shape, out, target), [call.args[0]])


def _softmax(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    shape = _shape(call)
    if int(call.attrs.axis) % len(shape) != len(shape) - 1:
        return None
    return _single(variable), _Kernel("softmax", softmax_kernel(shape, target), [call.args[0]])


def _group_norm(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    """Groups of channels, or single ones: instance normalisation is that."""
    shape, attrs = _shape(call), call.attrs
    if int(attrs.channel_axis) != 1 or [int(a) for a in attrs.axes] != list(range(2, len(shape))):
        return None
    columns = math.prod(shape[1:]) // int(attrs.num_groups)
    function = norm_kernel(shape, shape[1:2], columns, shape[1], float(attrs.epsilon), target)
    return _single(variable), _Kernel("group_norm", function, list(call.args), f"{attrs.num_groups} groups")


def _layer_norm(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    shape = _shape(call)
    axes = sorted(int(a) % len(shape) for a in call.attrs.axes)
    if axes != list(range(axes[0], len(shape))):
        return None
    own = shape[axes[0] :]
    function = norm_kernel(shape, own, math.prod(own), 0, float(call.attrs.epsilon), target)
    return _single(variable), _Kernel("layer_norm", function, list(call.args))


def _concat(graph: _Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    if not isinstance(call.args[0], relax.Tuple) or not all(_float32(a) for a in call.args[0].fields):
        return None
    arrays = list(call.args[0].fields)
    axis = int(call.attrs.axis or 0) % len(_shape(call))
    return _single(variable), _Kernel("concat", concat_kernel([_shape(a) for a in arrays], axis), arrays)


_RULES: dict[str, Callable[[_Graph, Any, Any, Target, Pick], _Found]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.mean": _reduce,
    "relax.sum": _reduce,
    "relax.max": _reduce,
    "relax.nn.softmax": _softmax,
    "relax.nn.group_norm": _group_norm,
    "relax.nn.layer_norm": _layer_norm,
    "relax.concat": _concat,
}
