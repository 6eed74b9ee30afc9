"""Operators that onnxruntime fuses out of others (domain com.microsoft): each is what it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules import convolution, elementwise, linear
from graphprune.rules.base import (
    Call,
    Kept,
    Operand,
    Pin,
    Routing,
    Rule,
    Ties,
    affine,
    every,
    first,
    never,
    reduction,
    some,
    tie,
    tie_all,
)
from graphprune.rules.elementwise import aligned
from graphprune.rules.normalization import scale_for_fewer
from graphprune.rules.spelled import Spelled

_CONV, _GEMM, _MATMUL, _ADD = (
    table.RULES[op] for table, op in ((convolution, "Conv"), (linear, "Gemm"), (linear, "MatMul"), (elementwise, "Add"))
)
# Activations with f(0) = 0.
_SILENT = ("", "Relu", "LeakyRelu", "Tanh", "HardSwish")


def _conv_ties(call: Call) -> Ties:
    """A convolution, to which a tensor like its output may be added before the activation."""
    yield from _CONV.ties(call)
    if (added := call.input(3)) is not None:
        yield from tie_all(added, call.y)


def _conv_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    return _activated(call, affine(call, zero) & (zero[3] if call.input(3) is not None else True))


def _activated(call: Call, silent: np.ndarray) -> np.ndarray:
    return silent & (_text(call.attrs.get("activation", "")) in _SILENT)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _matmul_ties(call: Call) -> Ties:
    """A product of matrices, either of them transposed."""
    a, b, y = call.x, call.inputs[1], call.y
    assert b is not None
    if call.attrs.get("transBatchA", 0) or call.attrs.get("transBatchB", 0) or a.rank < 2 or b.rank < 2:
        return
    rows, inner = (-1, -2) if call.attrs.get("transA", 0) else (-2, -1)
    inner_b, columns = (-1, -2) if call.attrs.get("transB", 0) else (-2, -1)
    yield tie(a, a.rank + inner, b, b.rank + inner_b, summed=True)
    yield tie(a, a.rank + rows, y, y.rank - 2)
    yield tie(b, b.rank + columns, y, y.rank - 1)
    for operand in (a, b):
        for back in range(3, operand.rank + 1):
            if operand.shape[-back] == y.shape[-back]:
                yield tie(operand, operand.rank - back, y, y.rank - back)


def _matmul_macs(call: Call) -> int:
    return prod(call.y.shape) * call.x.shape[-2 if call.attrs.get("transA", 0) else -1]


def _skip_ties(call: Call) -> Ties:
    """The sum of x, what skipped a branch and a bias is normalised over its last axis, and may be handed on as well."""
    for made in _made(call, 3):
        for operand in call.inputs:
            if operand is not None:
                yield from aligned(operand, made)


def _made(call: Call, also: int) -> list[Operand]:
    """The normalised output, and the sum at ``also`` where it is asked for."""
    return [o for o in (call.y, *call.outputs[also:]) if o is not None]


def _skip_norm_ties(call: Call) -> Ties:
    yield from _skip_ties(call)
    yield from _normalised(call, *(k for k in (0, 1, 4) if call.input(k) is not None))


def _skip_rms_norm_ties(call: Call) -> Ties:
    yield from _skip_ties(call)
    yield from _normalised(call, *(k for k in (0, 1, 3) if call.input(k) is not None))


def _normalised(call: Call, *summed: int) -> Ties:
    """The statistics of a sum do not miss what is zero in all of its parts."""
    scale = call.input(2)
    if call.x.dtype not in (None, np.float32, np.float64) or scale is None or scale.constant is None:
        yield Pin(call.y.dim(-1), "normalised over", inexact=True)
        return
    for index in summed:
        operand = call.input(index)
        assert operand is not None
        yield reduction(operand, operand.rank - 1)


def _sum_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where all that is added is, and scale and bias: so is the sum, and what it is normalised to."""
    return every(call, [zero[k] for k, operand in enumerate(call.inputs) if operand is not None])


def _embedded_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    return every(call, [zero[k] for k in range(2, 7) if call.input(k) is not None])


def _skip_norm_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """Spelled out where positions are gone, whose zeros count in the mean and the variance."""
    whole, left = call.y.shape[-1], len(kept(call.y, call.y.rank - 1))
    if left == whole:
        return
    spelled = Spelled(f"{node.outputs[0].name}:norm", node.inputs[2].dtype)
    x, skip, scale, *rest = list(node.inputs)
    y, total = node.outputs[0], node.outputs[3] if len(node.outputs) > 3 and node.outputs[3].name else None
    bias = rest[1] if len(rest) > 1 and rest[1].name else None
    summed = spelled.made("Add", x, skip, into=None if bias is not None else total)
    if bias is not None:
        summed = spelled.made("Add", summed, bias, into=total)
    parameters = [scale, *(p for p in rest[:1] if p.name)]
    spelled.layer_norm(summed, parameters, [call.y.rank - 1], whole, left, call.attrs.get("epsilon", 1e-12), y)
    yield from spelled.into(node)


def _skip_rms_norm_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    return scale_for_fewer(node, call, 2, len(kept(call.y, call.y.rank - 1)) / call.y.shape[-1])


def _embedded_ties(call: Call) -> Ties:
    """Rows of up to three tables are added and normalised; positions of the text stay."""
    for made in _made(call, 2):
        for operand in call.inputs[2:7]:
            if operand is not None:
                yield tie(operand, operand.rank - 1, made, 2)
    for table in call.inputs[2:5]:
        if table is not None:
            yield reduction(table, 1)


def _embedded_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """The sum can be had unnormalised; its normalisation is spelled out, counting the zeros that are gone."""
    whole, left = call.y.shape[2], len(kept(call.y, 2))
    if left == whole:
        return ()
    y, scale, bias = node.outputs[0], node.inputs[5], node.inputs[6]
    others = [*list(node.outputs)[1:], gs.Variable(""), gs.Variable("")]
    mask, total = (
        tensor if tensor.name else gs.Variable(f"{y.name}:{what}", kind)
        for tensor, what, kind in zip(others, ("mask", "sum"), (np.int32, scale.dtype), strict=False)
    )
    node.outputs = [gs.Variable(f"{y.name}:fewer", scale.dtype), mask, total]
    spelled = Spelled(f"{y.name}:norm", scale.dtype)
    spelled.layer_norm(total, [scale, bias], [2], whole, left, call.attrs.get("epsilon", 1e-12), y)
    return spelled.nodes


def _experts_ties(call: Call) -> Ties:
    """A neuron of an expert goes in all of them; an expert takes its logit along."""
    router, up, down = call.inputs[1], call.inputs[2], call.inputs[4]
    assert router is not None
    assert up is not None
    assert down is not None
    yield tie(call.x, call.x.rank - 1, up, 2, summed=True)
    yield tie(down, 1, call.y, call.y.rank - 1)
    if (bias := call.input(5)) is not None:
        yield tie(bias, 1, call.y, call.y.rank - 1)
    if up.shape[1] == down.shape[2] and _text(call.attrs.get("activation_type", "relu")) != "swiglu":
        yield tie(up, 1, down, 2, summed=True)
        for index in (3, 6, 7):
            if (other := call.input(index)) is not None:
                yield tie(other, 1, down, 2)
        if (gate := call.input(6)) is not None:
            yield tie(call.x, call.x.rank - 1, gate, 2, summed=True)
    for index in range(2, 8):
        if (operand := call.input(index)) is not None:
            yield tie(operand, 0, router, 1)
    if _experts_routing(call) is None:
        yield Pin(router.dim(1), "routed among by a mixer that looks at them one after another")


def _experts_routing(call: Call) -> Routing | None:
    """The k greatest logits are chosen, and share out by a softmax."""
    if call.attrs.get("use_sparse_mixer", 0):
        return None
    return Routing(1, 1, int(call.attrs.get("k", 1)), clipped=True)


def _experts_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    """No more can be chosen than are left."""
    router = call.inputs[1]
    assert router is not None
    node.attrs["k"] = min(int(call.attrs.get("k", 1)), len(kept(router, 1)))


def _experts_macs(call: Call) -> int:
    """Every row goes through as many experts as it is routed to."""
    weights = (call.input(k) for k in (2, 4, 6))
    router = call.inputs[1]
    assert router is not None
    rows = prod(call.x.shape[:-1]) * min(int(call.attrs.get("k", 1)), router.shape[1])
    return rows * sum(prod(weight.shape[1:]) for weight in weights if weight is not None)


def _gemm_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    return _activated(call, affine(call, zero))


_UNARY = Rule(elementwise.RULES["Gelu"].ties, silence=first)

RULES = {
    f"com.microsoft.{op}": rule
    for op, rule in {
        "BiasAdd": replace(_ADD, silence=every),
        "BiasGelu": _ADD,
        "EmbedLayerNormalization": Rule(_embedded_ties, _embedded_repair, silence=_embedded_silence),
        "FastGelu": _ADD,
        "FusedConv": replace(_CONV, ties=_conv_ties, layer=lambda call: None, silence=_conv_silence),
        "FusedGemm": replace(_GEMM, layer=lambda call: None, silence=_gemm_silence),
        "FusedMatMul": Rule(_matmul_ties, macs=_matmul_macs, silence=some),
        "Gelu": _UNARY,
        "MoE": Rule(_experts_ties, _experts_repair, _experts_macs, silence=never, routes=_experts_routing),
        "QuickGelu": _UNARY,
        "SkipLayerNormalization": Rule(_skip_norm_ties, _skip_norm_repair, silence=_sum_silence),
        "SkipSimplifiedLayerNormalization": Rule(_skip_rms_norm_ties, _skip_rms_norm_repair, silence=_sum_silence),
    }.items()
}
