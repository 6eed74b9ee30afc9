"""Put one normalisation in the place of the operators that spell it out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.model import Model
from graphprune.model.surgeon import is_standard
from graphprune.rules.spelled import Spelled
from graphprune.state import State

# The opset that brought each of them.
LAYER_NORM, RMS_NORM = 17, 23
AXES_INPUT = 18  # from here on a mean takes its axes as an input

# Exponents of x, of its mean m, of its mean square q, and of r = 1 / √(variance + ε).
Power = tuple[int, int, int, int]
ONE, X, M, Q, R = (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)
XR, MR, MM = (1, 0, 0, 1), (0, 1, 0, 1), (0, 2, 0, 0)
DEGREE = 8  # more than any spelling comes to
# A sum of products of these, float64 coefficients being broadcast to the axes normalised over.
Sum = dict[Power, np.ndarray]

_SAME = frozenset(["Cast", "CastLike", "Identity"])  # where the element type stays
_RESHAPED = frozenset(["Expand", "Reshape", "Squeeze", "Unsqueeze"])
_SQUARES = frozenset(["Mul", "Pow"])
_MEANS = frozenset(["GlobalAveragePool", "ReduceMean"])
_TOTALS = frozenset(["ReduceSum", "ReduceSumSquare"])
_THERE = ":there"  # behind the name of a weight that counts


class _Found(NamedTuple):
    """A normalisation: where its result is, and what it is made of; no shift where there is none."""

    y: gs.Tensor
    scale: gs.Constant
    shift: gs.Constant | None
    epsilon: float
    centred: bool


@dataclass(frozen=True)
class FuseNorms:
    """Find LayerNormalization (Ba et al. 2016) and RMSNormalization (Zhang & Sennrich 2019) in every spelling.

    Whatever is made of x by arithmetic and means over some axes is a polynomial in x, in its mean and mean square, and
    in 1 / √(variance + ε). So two spellings are the same function if their polynomials are, whether the variance is the
    mean of squares about the mean or the mean square less the squared mean, and whether x is scaled before or after its
    mean is taken away. Where there is no operator, for want of a newer opset or because other axes than the last are
    normalised over, what is centred is spelled in a way that lets channels go; so is a GroupNorm of one group (Wu & He
    2018), which exporters write as an InstanceNormalization of all of an item.
    """

    def __call__(self, state: State) -> State:
        """A state with fewer nodes, or the same state."""
        model = state.model  # what it knows of tensors is asked of it, so that nothing is inferred twice
        if next(chain(_seeds(model, model.graph.nodes), _whole_items(model, model.graph.nodes)), None) is None:
            return state
        own = model.copy()
        place = {id(node): k for k, node in enumerate(own.graph.nodes)}
        inside: set[str] = set()
        done: set[str] = set()
        instead: dict[int, list[gs.Node]] = {}
        for x, axes in _seeds(model, own.graph.nodes):
            if x.name in inside:
                continue
            region = _Region(model, x, axes, place)
            if (found := region.normalisation(inside | done)) is not None:
                inside |= region.within(found.y)
                done.add(found.y.name)
                at = place[id(found.y.inputs[0])]
                name = found.y.inputs[0].name
                found.y.inputs.clear()
                instead[at] = [_norm(found, x, axes, name)] if region.operator else region.countable(found)
        for x, found in _whole_items(model, own.graph.nodes):
            region = _Region(model, x, tuple(range(1, len(model.shapes[x.name]))), place)
            region.normalised = (region.shape[1], *(1 for _ in region.shape[2:]))  # only channels are counted
            at = place[id(found.y.inputs[0])]
            found.y.inputs.clear()
            instead[at] = region.countable(found)
        nodes = (new for k, node in enumerate(own.graph.nodes) for new in instead.get(k, [node]))
        return replace(state, model=own.with_nodes(nodes)) if instead else state


def _norm(found: _Found, x: gs.Tensor, axes: Sequence[int], name: str) -> gs.Node:
    inputs = [x, found.scale, *([found.shift] if found.shift is not None else [])]
    op = "LayerNormalization" if found.centred else "RMSNormalization"
    return gs.Node(op, name, {"axis": -len(axes), "epsilon": found.epsilon}, inputs, [found.y])


def _seeds(model: Model, nodes: Iterable[gs.Node]) -> Iterator[tuple[gs.Tensor, tuple[int, ...]]]:
    """What may be normalised, and over which axes: what is averaged over them, and what that is made of.

    The nodes are the model's, or copies of them.
    """
    for node in nodes:
        if not is_standard(node) or node.op not in _MEANS | _TOTALS or not node.inputs:
            continue
        averaged = node.inputs[0]
        axes = _axes(node, model)
        if axes is None or model.dtypes.get(averaged.name) not in (np.float32, np.float64):
            continue
        before = [averaged]
        for tensor in before:  # grows
            before += [n.inputs[0] for n in tensor.inputs if n.op in _SAME or (tensor is averaged and n.op in _SQUARES)]
        for x in reversed(before):
            if not isinstance(x, gs.Constant) and model.shapes.get(x.name) == model.shapes[averaged.name]:
                yield x, axes


def _whole_items(model: Model, nodes: Iterable[gs.Node]) -> Iterator[tuple[gs.Tensor, _Found]]:
    """InstanceNormalizations of items with all their channels on one axis, and of what: between two Reshapes."""
    for node in nodes:
        if not is_standard(node) or node.op != "InstanceNormalization":
            continue
        (merged, scale, shift), made = node.inputs, node.outputs[0]
        around = [*merged.inputs, *made.outputs]
        if [n.op for n in around] != ["Reshape"] * 2 or around[1].inputs[0] is not made or model.hands_out(made):
            continue
        x, y = around[0].inputs[0], around[1].outputs[0]
        shape = model.shapes.get(x.name, ())
        if None in shape or len(shape) < 3 or model.shapes.get(y.name) != shape:
            continue
        whole = model.shapes.get(merged.name) == (shape[0], 1, prod(shape[1:]))  # type: ignore[arg-type]
        alike = ((merged.name, 0) in model.varying) == ((x.name, 0) in model.varying)
        constant = isinstance(scale, gs.Constant) and isinstance(shift, gs.Constant)
        if whole and alike and constant and model.dtypes.get(x.name) == scale.dtype:
            yield x, _Found(y, scale, shift, float(node.attrs.get("epsilon", 1e-5)), True)


def _axes(node: gs.Node, model: Model) -> tuple[int, ...] | None:
    """The axes that a node averages over, where they are known and of one size always."""
    name = node.inputs[0].name
    shape = model.shapes.get(name)
    if not shape or None in shape:
        return None
    rank = len(shape)
    given = node.attrs.get("axes")
    if node.op == "GlobalAveragePool":
        given = range(2, rank)
    elif given is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        given = np.asarray(node.inputs[1].values).reshape(-1)
    axes = tuple(sorted(int(axis) % rank for axis in given)) if given is not None else ()
    return axes if axes and not any((name, axis) in model.varying for axis in axes) else None


class _Region:
    """What is made of x by arithmetic and means over some of its axes."""

    def __init__(self, model: Model, x: gs.Tensor, axes: tuple[int, ...], place: Mapping[int, int]) -> None:
        self.model, self.x, self.axes, self.place = model, x, axes, place
        self.shape: tuple[int, ...] = model.shapes[x.name]  # type: ignore[assignment]
        rank = len(self.shape)
        self.normalised = tuple(self.shape[k] if k in axes else 1 for k in range(axes[0], rank))
        self.rows = tuple(size for k, size in enumerate(self.shape) if k not in axes)
        self.kept = tuple(1 if k in axes else size for k, size in enumerate(self.shape))
        self.last = axes == tuple(range(axes[0], rank))
        self.dtype = model.dtypes[x.name]
        self.radicand: Sum | None = None
        self.sums: dict[str, Sum] = {x.name: {X: np.ones(())}}
        self.constants: list[gs.Constant] = []

    def normalisation(self, but: Collection[str]) -> _Found | None:
        """The last step of a normalisation of x, scaled and shifted where that is constant; none that is in ``but``."""
        if prod(self.normalised) < 2:
            return None
        found: _Found | None = None
        waiting = {id(n): n for n in self.x.outputs}
        while waiting:
            node = waiting.pop(min(waiting, key=lambda key: self.place.get(key, len(self.place))))
            value = self._made(node)
            if value is None:
                continue
            y = node.outputs[0]
            self.sums[y.name] = value
            waiting |= {id(reader): reader for reader in y.outputs}
            # On to a scaled or shifted one only if nobody reads what is on the way.
            if found is None:
                found = None if y.name in but else self._as_norm(y, value)
            elif [id(reader) for reader in found.y.outputs] == [id(node)] and not self.model.hands_out(found.y):
                found = self._as_norm(y, value) or found
        return None if found is None or any(c.name.endswith(_THERE) for c in self.constants) else found

    @property
    def operator(self) -> bool:
        """Whether the model's opset has one for what is centred."""
        return self.last and self.model.opset >= LAYER_NORM

    def countable(self, found: _Found) -> list[gs.Node]:
        """The same in operators of any opset, with a weight of ones that says which positions are there.

        Where x is zero because its unit is, it is off its mean by as much as that; and so are those that went, whose
        number is known by the ones that are left.
        """
        spelled = Spelled(f"{found.y.name}:norm", self.dtype)
        there = gs.Constant(f"{found.y.name}{_THERE}", np.ones(self.normalised, self.dtype))

        def mean(of: gs.Tensor, axes: Sequence[int]) -> gs.Tensor:
            if self.model.opset < AXES_INPUT:
                return spelled.made("ReduceMean", of, axes=list(axes), keepdims=1)
            return spelled.made("ReduceMean", of, gs.Constant(f"{of.name}:axes", np.array(axes)), keepdims=1)

        m = mean(self.x, self.axes)
        off = spelled.made("Mul", spelled.made("Sub", self.x, m), there)
        gone = spelled.made("Sub", spelled.number(1), mean(there, [axis - self.axes[0] for axis in self.axes]))
        zeros = spelled.made("Mul", spelled.made("Mul", m, m), gone)
        variance = spelled.made("Add", mean(spelled.made("Mul", off, off), self.axes), zeros)
        root = spelled.made("Sqrt", spelled.made("Add", variance, spelled.number(found.epsilon)))
        made_up = found.scale.name not in self.model.constants and bool((np.asarray(found.scale.values) == 1).all())
        parameters = (("Mul", None if made_up else found.scale), ("Add", found.shift))
        affine = [(op, parameter) for op, parameter in parameters if parameter is not None]
        result = spelled.made("Div", off, root, into=None if affine else found.y)
        for op, parameter in affine:
            result = spelled.made(op, result, parameter, into=found.y if parameter is affine[-1][1] else None)
        return spelled.nodes

    def within(self, y: gs.Tensor) -> set[str]:
        """What is made of x on the way to ``y``."""
        found: set[str] = set()
        met = [y]
        for tensor in met:  # grows
            before = [t for node in tensor.inputs for t in node.inputs if t.name in self.sums and t is not self.x]
            met += [t for t in before if t.name not in found]
            found |= {t.name for t in before}
        return found

    # ------------------------------------------------------------------------------------------------- recognising

    def _as_norm(self, y: gs.Tensor, value: Sum) -> _Found | None:
        """What a polynomial is, where it is a normalisation: γ (x - m) r + β, or γ x r."""
        if self.model.shapes.get(y.name) != self.shape or self.radicand is None or XR not in value:
            return None
        spread = dict(self.radicand)
        epsilon = spread.pop(ONE, np.zeros(()))
        centred = _same(spread, {Q: np.ones(()), MM: -np.ones(())})
        scale, shift = value[XR], value.get(ONE)
        known = {XR: scale, MR: -scale} if centred else {XR: scale}
        if not (centred or _same(spread, {Q: np.ones(())})) or np.size(epsilon) != 1 or (epsilon < 0).any():
            return None
        if not _same({power: c for power, c in value.items() if power != ONE}, known):
            return None
        if not centred and (self.model.opset < RMS_NORM or shift is not None or not self.last):
            return None
        gamma = self._constant(scale, f"{y.name}:scale")
        beta = None if shift is None else self._constant(shift, f"{y.name}:shift")
        if gamma is None or (shift is not None and beta is None):
            return None
        return _Found(y, gamma, beta, float(epsilon.reshape(-1)[0]), centred)

    def _constant(self, values: np.ndarray, name: str) -> gs.Constant | None:
        """A constant of the model that has these values, or ones; ``None`` where there is none."""
        for constant in self.constants:
            own = np.asarray(constant.values)
            if own.size == prod(self.normalised) and np.allclose(own.reshape(self.normalised), values, rtol=1e-6):
                return constant if own.shape == self.normalised else gs.Constant(name, own.reshape(self.normalised))
        return gs.Constant(name, np.ones(self.normalised, self.dtype)) if (values == 1).all() else None

    # ---------------------------------------------------------------------------------------------------- following

    def _made(self, node: gs.Node) -> Sum | None:
        """The polynomial that a node makes; ``None`` where it makes something else."""
        if not is_standard(node) or len(node.outputs) != 1 or node.outputs[0].name in self.sums:
            return None
        shape = self.model.shapes.get(node.outputs[0].name)
        if shape not in (self.shape, self.kept, self.rows):
            return None
        if node.op in _MEANS | _TOTALS:
            return self._mean(node)
        if node.op in _SAME:
            same = self.model.dtypes.get(node.outputs[0].name) == self.dtype
            return self._sum(node.inputs[0]) if same else None
        if node.op in _RESHAPED:
            value = self._sum(node.inputs[0])
            return value if value is not None and _by_row(value) else None
        values = [self._sum(t) for t in node.inputs]
        # Numbers by row line up with x by having its rank.
        ranks = {len(self.model.shapes[t.name]) for t in node.inputs if t.name in self.sums}
        made = None if None in values or ranks != {len(shape)} else self._computed(node.op, values)  # type: ignore[arg-type]
        if made is None or any(sum(map(abs, power)) > DEGREE for power in made):
            return None
        return made if shape != self.rows or _by_row(made) else None

    def _sum(self, tensor: gs.Tensor) -> Sum | None:
        if isinstance(tensor, gs.Constant):
            shape = tuple(tensor.shape)
            own = shape[max(len(shape) - len(self.normalised), 0) :]
            if tensor.dtype != self.dtype or prod(own) != prod(shape) or prod(shape) > prod(self.normalised):
                return None
            self.constants.append(tensor)
            return {ONE: np.asarray(tensor.values, np.float64).reshape(own)}
        made = tensor.inputs[0] if len(tensor.inputs) == 1 else None
        if made is not None and made.op == "CastLike" and self.model.dtypes.get(tensor.name) == self.dtype:
            made_of = made.inputs[0]
            return self._sum(made_of) if isinstance(made_of, gs.Constant) else self.sums.get(tensor.name)
        return self.sums.get(tensor.name)

    def _mean(self, node: gs.Node) -> Sum | None:
        """E(x) = m and E(x²) = q."""
        value = self._sum(node.inputs[0])
        axes = _axes(node, self.model)
        if value is None or axes != self.axes or self.model.shapes[node.inputs[0].name] != self.shape:
            return None
        if node.op == "ReduceSumSquare":
            value = _product(value, value)
        times = prod(self.normalised) if node.op in _TOTALS else 1
        mean: Sum = {}
        for (x, m, q, r), factor in value.items():
            if x > 2 or np.size(factor) != 1:
                return None
            _add(mean, (0, m + (x == 1), q + (x == 2), r), factor.reshape(()) * times)
        return mean

    def _computed(self, op: str, values: list[Sum]) -> Sum | None:
        match op, values:
            case "Add", [a, b]:
                return _plus(a, b, 1)
            case "Sub", [a, b]:
                return _plus(a, b, -1)
            case "Mul", [a, b]:
                return _product(a, b)
            case "Neg", [a]:
                return _plus({}, a, -1)
            case "Div", [a, b]:
                inverse = _inverse(b)
                return None if inverse is None else _product(a, inverse)
            case "Reciprocal", [a]:
                return _inverse(a)
            case "Sqrt", [a]:
                return self._root(a, -1)
            case "Pow", [a, {**exponent}] if exponent.keys() == {ONE} and np.size(exponent[ONE]) == 1:
                power = float(exponent[ONE].reshape(-1)[0])
                if power == 2:
                    return _product(a, a)
                return self._root(a, round(-2 * power)) if abs(power) == 0.5 else None
            case (("Relu" | "Abs"), [a]):
                return a if _variance(a) else None
            case "Max", [a, b]:  # no variance is below 0
                zero = [s for s in (a, b) if not any(c.any() for c in s.values())]
                other = b if zero and zero[0] is a else a
                return other if zero and _variance(other) else None
        return None

    def _root(self, value: Sum, exponent: int) -> Sum | None:
        """r to a power, where ``value`` is what r is the inverse root of."""
        if self.radicand is None and _variance(value):
            self.radicand = value
        known = self.radicand is not None and _same(value, self.radicand)
        return {(0, 0, 0, exponent): np.ones(())} if known else None


def _variance(value: Sum) -> bool:
    """Whether a polynomial is a multiple of a variance or a mean square, with nothing taken away: never below 0."""
    if Q not in value or not value.keys() <= {ONE, Q, MM} or not _by_row(value):
        return False
    above = (value[Q] > 0).all() and (value.get(ONE, np.zeros(())) >= 0).all()
    return bool(above and (MM not in value or np.allclose(value[MM], -value[Q], rtol=1e-6)))


def _by_row(value: Sum) -> bool:
    return all(power[0] == 0 and np.size(factor) == 1 for power, factor in value.items())


def _same(a: Sum, b: Sum) -> bool:
    return all(np.allclose(a.get(p, 0.0), b.get(p, 0.0), rtol=1e-6, atol=1e-12) for p in a.keys() | b.keys())


def _add(into: Sum, power: Power, factor: np.ndarray) -> None:
    total = into.pop(power, np.zeros(())) + factor
    if (np.abs(total) > 1e-6 * np.abs(factor)).any():  # what cancels but for rounding is no term
        into[power] = total


def _plus(a: Sum, b: Sum, sign: int) -> Sum:
    total = dict(a)
    for power, factor in b.items():
        _add(total, power, sign * factor)
    return total


def _product(a: Sum, b: Sum) -> Sum:
    total: Sum = {}
    for p, factor in a.items():
        for q, other in b.items():
            _add(total, tuple(map(sum, zip(p, q, strict=True))), factor * other)  # type: ignore[arg-type]
    return total


def _inverse(value: Sum) -> Sum | None:
    """1 / value, of a number or a power of r."""
    if len(value) != 1:
        return None
    ((power, factor),) = value.items()
    return {(0, 0, 0, -power[3]): 1 / factor} if power[:3] == (0, 0, 0) and factor.all() else None
