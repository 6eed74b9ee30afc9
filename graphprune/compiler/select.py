"""Choose kernels: replace Relax operators, with what follows them, by calls of scheduled TIR functions.

A convolution or matrix product takes along the chain of operators that only it feeds (`chains`). What is not recognised
stays for TVM's legalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from graphprune.compiler.chains import Chain, Graph, constant, float32, operator, shape_of, single
from graphprune.compiler.device import zeros
from graphprune.compiler.kernels.conv import Conv
from graphprune.compiler.kernels.epilogue import Epilogue
from graphprune.compiler.kernels.gpu import depthwise_kernel
from graphprune.compiler.kernels.matmul import Matmul
from graphprune.compiler.kernels.norm import norm_kernel
from graphprune.compiler.kernels.padding import Window
from graphprune.compiler.kernels.rows import concat_kernel, reduce_kernel, softmax_kernel
from graphprune.compiler.kernels.window import Windowed, average_weights, window_kernel
from graphprune.compiler.program import hold
from graphprune.compiler.schedule import final
from graphprune.compiler.targets import Target
from graphprune.compiler.ways import Pick, Way, ways_of_conv, ways_of_product

_BEFORE, _ONCE = "_prepared", "_weights"  # after the name of a variable: what its kernel takes


@dataclass(frozen=True)
class _Kernel:
    """A function to call with these Relax arguments; `how` is the shape of its loops in words, `why` the reason.

    Where there is a function `before`, the first argument is what that one makes of it; where there is one for `once`,
    the second is what that makes of it when a model is loaded.
    """

    name: str
    function: tirx.PrimFunc
    arguments: list[Any]
    how: str = ""
    why: str = ""
    before: tirx.PrimFunc | None = None
    once: tirx.PrimFunc | None = None


def select_kernels(module: tvm.IRModule, target: Target, pick: Pick) -> tuple[tvm.IRModule, dict[str, list[str]]]:
    """`module` with kernels called where one fits, and the variables each call computes, by the result's variable.

    `pick` takes one of the ways to compute a layer.
    """
    main = module["main"]
    graph = Graph(main)
    rules = _ON_DEVICE if target.device else _RULES
    chosen: dict[Any, _Kernel] = {}
    covers: dict[str, list[str]] = {}
    for variable, call in graph.producer.items():
        if variable in graph.taken or not operator(call):
            continue
        rule = rules.get(call.op.name)
        if rule is None or not float32(call):
            continue
        found = rule(graph, variable, call, target, pick)
        if found is not None:
            chain, kernel = found
            chosen[chain.last] = kernel
            graph.taken.update(chain.taken)
            covers[str(chain.last.name)] = [str(v.name) for v in chain.taken]
            covers[f"{chain.last.name}{_BEFORE}"] = covers[str(chain.last.name)]
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
            arguments = [self.visit_expr(a) for a in kernel.arguments]
            if kernel.before is not None:
                name = f"{binding.var.name}{_BEFORE}"
                arguments[0] = self._prepared("prepare", kernel.before, arguments[0], kernel, name)
            if kernel.once is not None:
                held = self.builder_.emit(hold(arguments[1]))
                arguments[1] = self._prepared("once", kernel.once, held, kernel, f"{binding.var.name}{_ONCE}")
            call = self._call(kernel.name, final(kernel.function, kernel.how, kernel.why), arguments, binding.var.ty)
            binding = relax.VarBinding(binding.var, self.builder_.normalize(call))
        super().visit_var_binding_(binding)

    def _prepared(self, what: str, function: tirx.PrimFunc, argument: Any, kernel: _Kernel, name: str) -> Any:
        made = relax.TensorType([int(d) for d in function.params[-1].shape], "float32")
        call = self._call(what, final(function, f"for {kernel.name}"), [argument], made)
        return self.builder_.emit(call, name_hint=name)

    def _call(self, name: str, function: tirx.PrimFunc, arguments: list[Any], made: Any) -> Any:
        return relax.call_tir(self.builder_.add_func(function, name), relax.Tuple(arguments), out_ty=made)


_Found = tuple[Chain, _Kernel] | None


def _window(call: Any, kernel: tuple[int, int], out: tuple[int, ...]) -> Window:
    attrs = call.attrs
    strides, dilation = (tuple(int(v) for v in a) for a in (attrs.strides, attrs.dilation))
    pad = tuple(int(v) for v in attrs.padding)
    pad = pad * 4 if len(pad) == 1 else pad * 2 if len(pad) == 2 else pad
    return Window(shape_of(call.args[0])[2:], kernel, strides, dilation, pad, out[2:])  # type: ignore[arg-type]


def _conv2d(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    weight = constant(call.args[1])
    plain = call.attrs.data_layout == "NCHW" and call.attrs.kernel_layout == "OIHW"
    if weight is None or not plain or weight.dtype != np.float32:
        return None
    batch, channels = shape_of(call.args[0])[:2]
    out = shape_of(call)
    filters, groups = out[1], int(call.attrs.groups)
    chain = graph.chain(variable, 1, filters)
    window, image = graph.padded(_window(call, weight.shape[2:], out), call.args[0])
    weight = weight * chain.scale[:, None, None, None]
    residual = [chain.residual] if chain.residual is not None else []
    if groups == channels and weight.shape[1] == 1:
        op = Windowed("depthwise", batch, channels, filters // channels, window, chain.epilogue)
        arguments = [image, relax.const(weight.reshape(filters, -1)), relax.const(chain.bias), *residual]
        function = depthwise_kernel(op) if target.device else window_kernel(op, target)
        return chain, _Kernel("depthwise", function, arguments, f"{window}")
    if groups == 1 and out[2:] == (1, 1) and window.kernel == window.image and not any(window.pad):
        matrix = weight.reshape(filters, -1).T
        product = Matmul(1, batch, filters, matrix.shape[0], shape_of(image), None, out, chain.epilogue)
        return chain, _product("conv", product, image, matrix, chain, target, pick)
    conv = Conv(batch, channels, filters, groups, window, chain.epilogue)
    way, why = pick(ways_of_conv(conv, weight, target, pick.few))
    why = zeros(weight) if target.device else why
    return chain, _called("conv", way, image, chain, why, f"{window}, ")


def _called(what: str, way: Way, image: Any, chain: Chain, why: str, layer: str = "", b: Any = None) -> _Kernel:
    """The call of a way's kernel: what flows in, its constants or a `b` that is none, bias, residual."""
    function, constants, before, once = way.make()
    second = [relax.const(array) for array in constants] if b is None else [b]
    residual = [chain.residual] if chain.residual is not None else []
    name = {"dense": what, "sparse": f"sparse_{what}"}.get(way.kind, way.kind.lower())
    arguments = [image, *second, relax.const(chain.bias.astype(np.float32)), *residual]
    return _Kernel(name, function, arguments, layer + way.loops, why, before, once)


def _product(name: str, op: Matmul, a: Any, b: Any, chain: Chain, target: Target, pick: Pick) -> _Kernel:
    matrix = b if isinstance(b, np.ndarray) else None
    way, why = pick(ways_of_product(op, matrix, target, pick.few))
    why = zeros(matrix) if target.device and matrix is not None else why
    return _called(name, way, a, chain, why, b=b if matrix is None else None)


def _matmul(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    a, b = call.args
    out, a_shape, b_shape = shape_of(call), shape_of(a), shape_of(b)
    if min(len(a_shape), len(b_shape)) < 2 or not (float32(a) and float32(b)):
        return None
    rows, depth, columns = a_shape[-2], a_shape[-1], b_shape[-1]
    known = constant(b)
    chain = graph.chain(variable, -1, columns)
    if known is not None and known.size == depth * columns:
        rows = int(np.prod(a_shape[:-1]))
        op = Matmul(1, rows, columns, depth, a_shape, None, out, chain.epilogue)
        matrix = known.reshape(depth, columns) * chain.scale
        return chain, _product("matmul", op, a, matrix, chain, target, pick)
    if int(np.prod(b_shape[:-2])) == 1:  # one b for all: the leading axes of a are rows
        rows, batch = int(np.prod(a_shape[:-1])), 1
    elif a_shape[:-2] == b_shape[:-2]:
        batch = int(np.prod(a_shape[:-2]))
    else:
        return None
    if np.any(chain.scale != 1):  # a dynamic b cannot take the scale in
        chain = Chain(variable, variable, -1, np.ones(columns), np.zeros(columns), taken=[variable])
    op = Matmul(batch, rows, columns, depth, a_shape, b_shape, out, chain.epilogue)
    return chain, _product("matmul", op, a, b, chain, target, pick)


def _pool(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    attrs = call.attrs
    if attrs.layout != "NCHW":
        return None
    out = shape_of(call)
    window = _window(call, tuple(int(v) for v in attrs.pool_size), out)  # type: ignore[arg-type]
    average = call.op.name == "relax.nn.avg_pool2d"
    if average and attrs.ceil_mode:
        return None  # how windows beyond the padding count is a matter of version
    chain = single(variable)
    op = Windowed("average" if average else "max", out[0], out[1], 1, window, Epilogue())
    scale = [relax.const(average_weights(window, bool(attrs.count_include_pad)))] if average else []
    return chain, _Kernel("pool", window_kernel(op, target), [call.args[0], *scale], f"{op.mode}, {window}")


def _reduce(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    shape, out = shape_of(call.args[0]), shape_of(call)
    axes = range(len(shape)) if call.attrs.axis is None else sorted(int(a) % len(shape) for a in call.attrs.axis)
    if not axes or list(axes) != list(range(axes[0], len(shape))):
        return None  # only the trailing axes are consecutive values
    mode: Any = call.op.name.removeprefix("relax.")
    return single(variable), _Kernel(mode, reduce_kernel(mode, shape, out, target), [call.args[0]])


def _softmax(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    shape = shape_of(call)
    if int(call.attrs.axis) % len(shape) != len(shape) - 1:
        return None
    return single(variable), _Kernel("softmax", softmax_kernel(shape, target), [call.args[0]])


def _group_norm(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    """Groups of channels, or single ones: instance normalisation is that."""
    shape, attrs = shape_of(call), call.attrs
    if int(attrs.channel_axis) != 1 or [int(a) for a in attrs.axes] != list(range(2, len(shape))):
        return None
    columns = math.prod(shape[1:]) // int(attrs.num_groups)
    function = norm_kernel(shape, shape[1:2], columns, shape[1], float(attrs.epsilon), target)
    return single(variable), _Kernel("group_norm", function, list(call.args), f"{attrs.num_groups} groups")


def _layer_norm(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    shape = shape_of(call)
    axes = sorted(int(a) % len(shape) for a in call.attrs.axes)
    if axes != list(range(axes[0], len(shape))):
        return None
    own = shape[axes[0] :]
    function = norm_kernel(shape, own, math.prod(own), 0, float(call.attrs.epsilon), target)
    return single(variable), _Kernel("layer_norm", function, list(call.args))


def _concat(graph: Graph, variable: Any, call: Any, target: Target, pick: Pick) -> _Found:
    if not isinstance(call.args[0], relax.Tuple) or not all(float32(a) for a in call.args[0].fields):
        return None
    arrays = list(call.args[0].fields)
    axis = int(call.attrs.axis or 0) % len(shape_of(call))
    return single(variable), _Kernel("concat", concat_kernel([shape_of(a) for a in arrays], axis), arrays)


_RULES: dict[str, Callable[[Graph, Any, Any, Target, Pick], _Found]] = {
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
# What TVM's schedules of graphics processors do less well.
_ON_DEVICE = {name: _RULES[name] for name in ("relax.nn.conv2d", "relax.matmul")}
