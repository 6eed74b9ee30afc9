"""Matrix products: rows and columns pass through, the axis summed over meets its weights."""

from __future__ import annotations

from math import prod

import numpy as np

from graphprune.rules.base import Call, Operand, Rule, Ties, affine, reduction, some, tie
from graphprune.rules.layer import Layer


def _second(call: Call) -> Operand:
    second = call.inputs[1]
    assert second is not None
    return second


def _gemm_ties(call: Call) -> Ties:
    a, b, y = call.x, _second(call), call.y
    rows, inner = (1, 0) if call.attrs.get("transA", 0) else (0, 1)
    inner_b, columns = (1, 0) if call.attrs.get("transB", 0) else (0, 1)
    yield tie(a, rows, y, 0)
    yield tie(b, columns, y, 1)
    yield tie(a, inner, b, inner_b, summed=True)
    if (c := call.input(2)) is not None:
        for back in range(1, c.rank + 1):
            if c.shape[-back] == y.shape[-back]:
                yield tie(c, c.rank - back, y, 2 - back)


def _matmul_ties(call: Call) -> Ties:
    a, b, y = call.x, _second(call), call.y
    yield tie(a, a.rank - 1, b, max(b.rank - 2, 0), summed=True)
    if b.rank > 1 and y.rank:
        yield tie(b, b.rank - 1, y, y.rank - 1)
    if a.rank > 1 and y.rank:
        yield tie(a, a.rank - 2, y, y.rank - (2 if b.rank > 1 else 1))
    if a.rank > 1 and b.rank > 1:
        for operand in (a, b):
            for back in range(3, operand.rank + 1):
                if operand.shape[-back] == y.shape[-back]:
                    yield tie(operand, operand.rank - back, y, y.rank - back)


def _labelled(call: Call) -> tuple[list[list[str]], list[str]]:
    """A label for every axis of the operands of an Einsum and of its output; numbers stand for those behind dots."""
    equation = call.attrs["equation"]
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(set(left) - set(",."))
        right = ("..." if "..." in left else "") + "".join(x for x in letters if left.count(x) == 1)

    def labels(term: str, rank: int) -> list[str]:
        before, dots, after = term.partition("...")
        free = rank - len(before) - len(after) if dots else 0
        return [*before, *(str(-k) for k in range(free, 0, -1)), *after]

    operands = [operand for operand in call.inputs if operand is not None]
    return [labels(t, o.rank) for t, o in zip(terms, operands, strict=True)], labels(right, call.y.rank)


def _einsum_ties(call: Call) -> Ties:
    """A letter of the output passes through; one that is missing there is summed over."""
    terms, result = _labelled(call)
    for label in dict.fromkeys([label for term in terms for label in term]):
        places = [
            (operand, term.index(label))
            for operand, term in zip(call.inputs, terms, strict=True)
            if operand is not None and label in term and operand.shape[term.index(label)] > 1
        ]
        if any(term.count(label) > 1 for term in terms) or not places:
            continue  # a diagonal
        if label in result:
            for operand, axis in places:
                yield tie(operand, axis, call.y, result.index(label))
        elif len(places) == 1:
            yield reduction(*places[0])
        else:
            for operand, axis in places[1:]:
                yield tie(*places[0], operand, axis, summed=True)


def _einsum_macs(call: Call) -> int:
    terms, _ = _labelled(call)
    sizes: dict[str, int] = {}
    for operand, term in zip(call.inputs, terms, strict=True):
        for label, size in zip(term, operand.shape if operand else (), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return prod(sizes.values()) * (len(terms) - 1)


def _gemm_macs(call: Call) -> int:
    return prod(call.y.shape) * call.x.shape[0 if call.attrs.get("transA", 0) else 1]


def _matmul_macs(call: Call) -> int:
    return prod(call.y.shape) * call.x.shape[-1]


def _gemm_layer(call: Call) -> Layer | None:
    """Every row is a position; a bias that is scaled, or is not one value per column, is left alone."""
    weight, bias, columns = _second(call), call.input(2), call.y.shape[1]
    if weight.constant is None or call.attrs.get("alpha", 1.0) != 1.0 or call.attrs.get("transA", 0):
        return None
    plain = call.attrs.get("beta", 1.0) == 1.0 and (
        bias is None or (bias.constant is not None and bias.shape == (columns,))
    )
    return _matrix_layer(call, weight, 2 if plain else None, 1 if call.attrs.get("transB", 0) else 0)


def _matmul_layer(call: Call) -> Layer | None:
    """Every row of every matrix of the first operand is a position."""
    weight = _second(call)
    return None if weight.constant is None or weight.rank != 2 else _matrix_layer(call, weight, None, 0)


def _matrix_layer(call: Call, weight: Operand, bias: int | None, summed: int) -> Layer:
    def unfold(x: np.ndarray, at: np.ndarray) -> np.ndarray:
        return x.reshape(-1, x.shape[-1])[at][None]

    def positions(shape: tuple[int, ...]) -> int:
        return prod(shape[:-1])

    return Layer(call.x.name, call.y.name, weight.name, bias, True, summed, 1, 1, positions, unfold)


RULES = {
    "Einsum": Rule(_einsum_ties, macs=_einsum_macs, why="repeated in one operand", silence=some),
    "Gemm": Rule(_gemm_ties, macs=_gemm_macs, layer=_gemm_layer, silence=affine),
    "MatMul": Rule(_matmul_ties, macs=_matmul_macs, layer=_matmul_layer, silence=some),
}
