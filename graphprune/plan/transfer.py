"""A plan on the weights of the framework that the model was exported from, as arrays by name.

Exporters rename, transpose and fold: a Linear's matrix is stored transposed under a made-up name, a BatchNorm goes into
the convolution before it, equal biases are stored once. Arrays are recognised by name, then by their values; what
belongs to one layer goes together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.plan import Plan, Removal, mixes, read

Arrays = Mapping[str, np.ndarray]
Source = str | os.PathLike[str] | Model | None
# The name of an array, and which axis of an initializer each of its axes is.
Place = tuple[str, tuple[int, ...]]
Kept = dict[str, dict[int, np.ndarray]]
"""Name of an array → axis → the positions that stay, int64 ascending; axes that lose nothing are left out."""

# How PyTorch names what belongs to one gate, layer and direction.
_RECURRENT = re.compile(r"_(ih|hh)_l\d+(_reverse)?")
_NORM = ("weight", "bias", "running_mean", "running_var")
# How far weights may be from what a folded BatchNorm made of them in float32, relative to their size.
_ROUNDING = 1e-4


def planned(plan: Plan | str | os.PathLike[str]) -> Plan:
    """A plan, read if it is given by its path."""
    return plan if isinstance(plan, Plan) else read(Path(plan))


def exported(original: Source, plan: Plan) -> Model | None:
    """The model that a plan was made for, loaded if it is given by its path."""
    if original is None or isinstance(original, Model):
        return original
    return load(original, input_shapes=plan.input_shapes)


def match(plan: Plan, arrays: Arrays, original: Model | None = None, transposed: Collection[str] = ()) -> Kept:
    """What a plan leaves of the arrays of the source framework.

    Args:
        plan: for the exported model.
        arrays: parameters and buffers, by the names that the framework gives them.
        original: the exported model, to recognise by their values what the exporter renamed, transposed or folded.
        transposed: names of weights whose second axis is that of the outputs, as in a transposed convolution.

    Raises:
        UsageError: what cannot be found, or does not go together; all of it is listed.
    """
    if plan.layers:
        raise UsageError(
            f"the plan removes {len(plan.layers)} layers as a whole, which arrays alone cannot lose",
            "take these layers out of the module yourself, and the rows under layers out of the plan",
        )
    if mixing := mixes(plan):
        raise UsageError(
            f"'{mixing[0]}' mixes channels before the plan removes some, so that they are none of the framework's",
            "train the pruned ONNX file instead, or make a plan without it",
        )
    return _Matcher(plan, arrays, original, transposed).kept()


def apply(plan: Plan, arrays: Arrays, original: Model | None = None) -> dict[str, np.ndarray]:
    """The arrays that a plan leaves: plain slices, nothing is refitted. See ``match``."""
    kept = match(plan, arrays, original)
    return {name: sliced(array, kept.get(name, {})) for name, array in arrays.items()}


def sliced(array: np.ndarray, kept: Mapping[int, np.ndarray]) -> np.ndarray:
    """An array with only the positions kept on each axis."""
    for axis, positions in kept.items():
        array = array.take(positions, axis)
    return array


def groups_left(groups: int, size: int, kept: np.ndarray | None, name: str) -> int:
    """How many groups are left of channels or heads, each as wide as the others.

    Raises:
        UsageError: they would differ in width; ``name`` says where.
    """
    if groups == 1 or kept is None:
        return groups
    left = np.unique(kept // (size // groups), return_counts=True)[1]
    if len(set(left.tolist())) > 1:
        raise UsageError(f"{name}: its groups would differ in width", "take whole groups, or the same from each")
    return len(left)


class _Matcher:
    def __init__(self, plan: Plan, arrays: Arrays, original: Model | None, transposed: Collection[str]) -> None:
        self.arrays, self.original, self.transposed = arrays, original, transposed
        self.rows: dict[str, list[Removal]] = {}
        for removal in plan.removals:
            self.rows.setdefault(removal.tensor, []).append(removal)
        self.values = {n: np.asarray(c.values) for n, c in original.constants.items()} if original else {}
        self.free = {name for name in arrays if name not in self.values and name not in self.rows}
        self.found: Kept = {}
        self.complaints: list[str] = []

    def kept(self) -> Kept:
        lost = []
        for tensor, rows in self.rows.items():
            if not (places := self._find(tensor, rows)):
                lost.append(tensor)
                continue
            for name, order in places:
                for row in rows:
                    self._keep(name, order.index(row.axis), np.setdiff1d(np.arange(row.size), row.removed), tensor)
                if tensor in self.values and 1 < self.values[tensor].ndim == len({*order} - {-1}):
                    self._keep_folded_norm(name, self.values[tensor].transpose(order))
        for tensor in lost:
            if not self._follows(tensor, lost) and self._says_something(tensor):
                self.complaints.append(f"{tensor} {[r.size for r in self.rows[tensor]]} is in no array")
        self._keep_layers_together()
        if self.complaints:
            hint = (
                "give the exported ONNX file as well"
                if self.original is None
                else "was it exported from these weights?"
            )
            raise UsageError("the plan does not fit the weights: " + "; ".join(self.complaints[:20]), hint)
        return self.found

    def _keep(self, name: str, axis: int, positions: np.ndarray, why: str) -> None:
        known = self.found.setdefault(name, {}).setdefault(axis, positions)
        if not np.array_equal(known, positions):
            self.complaints.append(f"{name}[{axis}] would have to lose two different sets of positions (see {why})")

    def _find(self, tensor: str, rows: list[Removal]) -> list[Place]:
        """The array that an initializer was made of, or one for each direction of a recurrent layer."""
        array, values = self.arrays.get(tensor), self.values.get(tensor)
        if array is not None and (values is None or _alike(array, values)):
            same = tuple(range(array.ndim))
            fits = all(row.axis < array.ndim and array.shape[row.axis] == row.size for row in rows)
            order = (_order(array, values) if values is not None else None) or same
            return [(tensor, order)] if fits else []
        if values is None:
            return []
        alike = ((n, _order(self.arrays[n], values)) for n in sorted(self.free))
        places = [(n, order) for n, order in alike if order is not None]
        if not places and values.ndim == 3 and (stacked := self._find_directions(values)):
            return stacked
        if not places and values.ndim > 1:
            scaled = ((n, _scales(self.arrays[n], values)) for n in sorted(self.free))
            places = [(n, tuple(range(values.ndim))) for n, factors in scaled if factors is not None]
        if not places and max(values.shape, default=0) == values.size > 1:
            return self._find_norm(values)
        if len(places) > 1:
            self.complaints.append(f"{tensor} could be any of {', '.join(n for n, _ in places[:4])}, which are equal")
        elif places:
            self.free.discard(places[0][0])
        return places[:1]

    def _find_directions(self, values: np.ndarray) -> list[Place]:
        """The matrices [gates, inputs] of which a recurrent layer's weight [directions, gates, inputs] was stacked."""
        found = [next((n for n in sorted(self.free) if _same_gates(self.arrays[n], part)), None) for part in values]
        names = [name for name in found if name is not None]
        if len(names) < len(values):
            return []
        self.free.difference_update(names)
        return [(name, (1, 2)) for name in names]

    def _norms(self, names: list[str], size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """BatchNorms: names of their arrays, and factors, offsets, means and variances in rows, float64 [4, size]."""
        for mean in (n for n in names if n.endswith("running_mean") and n in self.free):
            prefix = mean.removesuffix("running_mean")
            if prefix + "running_var" in self.arrays and len(self.arrays[mean]) == size:
                blank = {"weight": np.ones(size), "bias": np.zeros(size)}
                parts = [prefix + part for part in _NORM if prefix + part in self.arrays]
                own = [self.arrays.get(prefix + part, blank.get(part)) for part in _NORM]
                yield parts, np.array(own, np.float64)

    def _find_norm(self, values: np.ndarray) -> list[Place]:
        """The BatchNorm that an exporter made factors and offsets of, one for each channel, by either."""
        flat, axis = values.ravel().astype(np.float64), int(np.argmax(values.shape))
        for parts, (gamma, beta, mean, variance) in self._norms(list(self.arrays), len(flat)):
            with np.errstate(divide="ignore", invalid="ignore"):
                epsilon = np.nanmedian((gamma * mean / (beta - flat)) ** 2 - variance)
            offsets = beta - mean * gamma / np.sqrt(np.maximum(variance + epsilon, 1e-30))
            same = np.abs(offsets - flat).max() <= _ROUNDING * np.abs(flat).max()
            if same or _epsilon(gamma, variance, flat) is not None:
                return [(part, (axis,)) for part in parts]
        return []

    def _keep_folded_norm(self, name: str, values: np.ndarray) -> None:
        """Cut the BatchNorm that an exporter folded into a weight: the one whose factors explain the difference."""
        weight = self.arrays[name]
        factors = _scales(weight, values)
        axis = 1 if name in self.transposed else 0
        if factors is None or axis not in self.found[name] or np.allclose(factors, 1, rtol=_ROUNDING):
            return
        after = list(self.arrays)[list(self.arrays).index(name) :]
        for parts, (gamma, _, _, variance) in self._norms(after, len(factors)):
            if _epsilon(gamma, variance, factors) is not None:
                for part in parts:
                    self._keep(part, 0, self.found[name][axis], name)
                self.free.difference_update(parts)
                return
        self.complaints.append(f"{name} has other values than in the file, and no BatchNorm explains it")

    def _follows(self, tensor: str, lost: list[str]) -> bool:
        """Whether an initializer is the bias of a node whose weight was found: it goes as that layer does."""
        if self.original is None:
            return False
        readers = [n for n in self.original.graph.nodes if any(t.name == tensor for t in n.inputs)]
        others = [t.name for n in readers for t in n.inputs if isinstance(t, gs.Constant) and t.name != tensor]
        return len(self.rows[tensor]) == 1 and any(n in self.rows and n not in lost for n in others)

    def _says_something(self, tensor: str) -> bool:
        """Whether an initializer is more than zeros, such as the state that a recurrent layer starts in."""
        return self.values.get(tensor) is None or bool(self.values[tensor].any())

    def _keep_layers_together(self) -> None:
        """Biases go with the outputs of their weights, and the parts of a normalisation with each other."""
        for name, axis, follower in _layers(self.arrays, self.transposed):
            positions = self.found.get(name, {}).get(axis)
            own = self.found.get(follower, {}).get(0)
            if own is not None and any(np.array_equal(own, other) for other in self.found.get(name, {}).values()):
                continue  # along its other axis, where outputs come second
            if positions is not None:
                self._keep(follower, 0, positions, name)
            elif own is not None:
                self._keep(name, axis, own, follower)


def _layers(arrays: Arrays, transposed: Collection[str]) -> Iterator[tuple[str, int, str]]:
    """Names of weights, their axis of outputs, and what else has a value for each output."""
    for name, weight in arrays.items():
        prefix, _, last = name.rpartition("weight")
        if _RECURRENT.fullmatch(last) and prefix + "bias" + last in arrays:
            yield name, 0, prefix + "bias" + last
        elif prefix.endswith("in_proj_") and not last and prefix + "bias" in arrays:
            yield name, 0, prefix + "bias"
        if last or (prefix and not prefix.endswith(".")):
            continue
        axis = 1 if name in transposed else 0
        for part in _NORM[1:]:
            other = arrays.get(prefix + part)
            if other is not None and other.ndim == 1 and weight.ndim > axis and len(other) == weight.shape[axis]:
                yield name, axis, prefix + part


def _sizes(array: np.ndarray) -> list[int]:
    """Of the axes that are more than one position."""
    return [size for size in array.shape if size != 1]


def _alike(array: np.ndarray, values: np.ndarray) -> bool:
    return sorted(_sizes(array)) == sorted(_sizes(values))


def _order(array: np.ndarray, values: np.ndarray) -> tuple[int, ...] | None:
    """The transposition that makes ``array`` of ``values``, number by number; -1 for an axis of 1 that is new."""
    if not _alike(array, values) or array.ndim > 5:
        return None
    wide = [axis for axis, size in enumerate(values.shape) if size != 1]
    squeezed, wanted = values.reshape(_sizes(values)), array.reshape(_sizes(array))
    for order in permutations(range(len(wide))):
        turned = squeezed.transpose(order)
        if turned.shape == wanted.shape and np.array_equal(turned, wanted):
            axes, single = iter(order), iter(axis for axis, size in enumerate(values.shape) if size == 1)
            return tuple(next(single, -1) if size == 1 else wide[next(axes)] for size in array.shape)
    return None


def _same_gates(array: np.ndarray, values: np.ndarray) -> bool:
    """Whether ``values`` [gates x units, inputs] are those of ``array``, gate by gate.

    Frameworks order gates differently. A unit loses the same row of every gate, so that their order does not matter.
    """
    if array.shape != values.shape:
        return False
    for gates in (1, 3, 4):
        if len(array) % gates == 0:
            ours, theirs = (x.reshape(gates, -1, x.shape[1]) for x in (array, values))
            if all(any(np.array_equal(a, b) for b in theirs) for a in ours):
                return True
    return False


def _epsilon(gamma: np.ndarray, variance: np.ndarray, factors: np.ndarray) -> float | None:
    """What a BatchNorm adds to its variances if it multiplies its channels by ``factors``; None if it does not."""
    with np.errstate(divide="ignore"):
        epsilon = (gamma / factors) ** 2 - variance
    middle = float(np.median(epsilon))
    return middle if np.abs(epsilon - middle).max() <= 100 * _ROUNDING * (variance.max() + middle) else None


def _scales(array: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """By what each slice of the first axis of ``array`` was multiplied to give ``values``, if it was: float64 [n]."""
    if array.shape != values.shape or array.ndim < 2:
        return None
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (array, values))
    energy = (a * a).sum(1)
    if not energy.all():
        return None
    factors = (a * b).sum(1) / energy
    apart = np.abs(a * factors[:, None] - b).max(initial=0)
    return factors if (factors > 0).all() and apart <= _ROUNDING * np.abs(b).max(initial=1e-30) else None
