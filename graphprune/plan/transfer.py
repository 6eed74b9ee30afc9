"""A plan on the weights of the framework that the model was exported from, as arrays by name.

Exporters rename, transpose and fold: a Linear's matrix is stored transposed under a made-up name, a BatchNorm goes into
the convolution before it, equal biases are stored once. Arrays are recognised by name, then by their values; what
belongs to one layer goes together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import permutations

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.plan import Plan, Removal, mixes

Arrays = Mapping[str, np.ndarray]
# The name of an array, and which axis of an initializer each of its axes is.
Place = tuple[str, tuple[int, ...]]
Kept = dict[str, dict[int, np.ndarray]]
"""Name of an array → axis → the positions that stay, int64 ascending; axes that lose nothing are left out."""

# How PyTorch names what belongs to one gate, layer and direction.
_RECURRENT = re.compile(r"_(ih|hh)_l\d+(_reverse)?")
_NORM = ("weight", "bias", "running_mean", "running_var")
# How far weights may be from what a folded BatchNorm made of them in float32, relative to their size.
_ROUNDING = 1e-4


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
                if tensor in self.values and 1 < self.values[tensor].ndim == len(order):
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

    def _keep_folded_norm(self, name: str, values: np.ndarray) -> None:
        """Cut the BatchNorm that an exporter folded into a weight: the one whose factors explain the difference."""
        weight = self.arrays[name]
        factors = _scales(weight, values)
        axis = 1 if name in self.transposed else 0
        if factors is None or axis not in self.found[name] or np.allclose(factors, 1, rtol=_ROUNDING):
            return
        after = list(self.arrays)[list(self.arrays).index(name) :]
        for mean in (n for n in after if n.endswith("running_mean") and n in self.free):
            prefix = mean.removesuffix("running_mean")
            variance = self.arrays.get(prefix + "running_var")
            if variance is None or len(variance) != len(factors):
                continue
            gamma = self.arrays.get(prefix + "weight", np.ones_like(variance))
            epsilon = (gamma / factors) ** 2 - variance
            if np.abs(epsilon - np.median(epsilon)).max() <= 100 * _ROUNDING * (variance.max() + np.median(epsilon)):
                for part in (n for n in _NORM if prefix + n in self.arrays):
                    self._keep(prefix + part, 0, self.found[name][axis], name)
                    self.free.discard(prefix + part)
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


def _alike(array: np.ndarray, values: np.ndarray) -> bool:
    return sorted(array.shape) == sorted(values.shape)


def _order(array: np.ndarray, values: np.ndarray) -> tuple[int, ...] | None:
    """The transposition that makes ``array`` of ``values``, number by number."""
    if not _alike(array, values) or array.ndim > 5:
        return None
    for order in permutations(range(values.ndim)):
        turned = values.transpose(order)
        if turned.shape == array.shape and np.array_equal(turned, array):
            return order
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
