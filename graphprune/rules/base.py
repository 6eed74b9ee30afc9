"""The vocabulary of the operator table: what a rule sees of a node, and what it says.

A rule speaks in *ties*. ``Tie(a, b, at_a, at_b)``: position ``at_a[k]`` of axis ``a`` lives and dies with position
``at_b[k]`` of axis ``b``. Whatever a rule does not speak of is pinned, so an incomplete rule prunes less,
never wrongly:

* an axis of an input or output that no tie mentions may not be cut;
* a position of an output axis that no tie covers may not be cut.

A position is *silent* if it holds zeros once the parameters of its unit are zeroed. A sum does not miss silent
positions, so an axis that is summed over may lose them. Constants are silent, and every rule says when results are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.layer import Layer


class Dim(NamedTuple):
    """One axis of one tensor."""

    tensor: str
    axis: int

    def __str__(self) -> str:
        return f"{self.tensor}[{self.axis}]"


@dataclass(frozen=True, eq=False, slots=True)
class Tie:
    """Position ``at_a[k]`` of ``a`` lives and dies with position ``at_b[k]`` of ``b``; both arrays are int64 [k].

    ``summed``: the two are multiplied and summed over, so they may only go where at least one is silent.
    """

    a: Dim
    b: Dim
    at_a: np.ndarray
    at_b: np.ndarray
    summed: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """``dim`` may not be cut, and why; said aloud where silence would leave the user guessing.

    ``inexact``: a cut makes sense and the rule has tied the axis for it, but does not equal zeroing.
    """

    dim: Dim
    why: str
    inexact: bool = False


class Routing(NamedTuple):
    """An axis along which an operator shares out or chooses: a position is absent there when it holds minus infinity.

    Attributes:
        input: the operand that holds the logits.
        axis: of that operand, counted from the front.
        chosen: how many positions are chosen; 0 where all get a share.
        numbers: the output that says which were chosen, by their positions, if there is one.
        clipped: whether fewer may be left than are chosen.
    """

    input: int
    axis: int
    chosen: int = 0
    numbers: int | None = None
    clipped: bool = False


@dataclass(frozen=True, slots=True)
class Counting:
    """Axes counted on by the numbers in an input: where those come from a choice, the axes go with what is chosen from.

    Attributes:
        numbers: the input of whole numbers.
        axes: which axes of operands they count on.
        empty: of the last of these axes, whether it is zero at positions that no number names.
    """

    numbers: int
    axes: tuple[Dim, ...]
    empty: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """Ties of which one option is to be taken: each is sound as long as the axes only the others mention stay whole.

    A merged axis may shrink along any one of the axes it is made of. The options come from the outermost axis to the
    innermost.
    """

    options: tuple[tuple[Tie, ...], ...]


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor at a node: its name, its concrete shape, its values when they are known, else its element type."""

    name: str
    shape: tuple[int, ...]
    constant: gs.Constant | None = None
    dtype: np.dtype | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def values(self) -> np.ndarray:
        """The values of a constant operand."""
        assert self.constant is not None
        return np.asarray(self.constant.values)

    def dim(self, axis: int) -> Dim:
        """The axis as a ``Dim``; negative axes count from the end."""
        return Dim(self.name, axis % self.rank)


@dataclass(frozen=True, eq=False)
class Body:
    """What goes into and comes out of a graph inside a node; operands of unknown shape are ``None``."""

    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """A node as its rule sees it: all operands have a name and a fully known shape; an omitted one is ``None``.

    Attributes:
        sizes: the elements of the list of sizes it takes, ``None`` for those computed at run time; empty where it takes
            none, or one of unknown length.
        parts: how many elements each part has of a list of sizes that a Concat joins at run time.
        asked: of a ``Shape``, the axes whose size somebody reads.
        bodies: of an If, a Loop or a Scan, whose inputs are then those listed, without what the bodies capture.
    """

    op: str
    name: str
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    attrs: Mapping[str, Any]
    opset: int
    sizes: tuple[int | None, ...] = ()
    parts: tuple[int, ...] = ()
    asked: frozenset[int] = frozenset()
    bodies: tuple[Body, ...] = ()

    @property
    def x(self) -> Operand:
        """The first input."""
        assert self.inputs[0] is not None
        return self.inputs[0]

    @property
    def y(self) -> Operand:
        """The first output."""
        assert self.outputs[0] is not None
        return self.outputs[0]

    def input(self, index: int) -> Operand | None:
        """The input at ``index``, ``None`` where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    @cached_property
    def sources(self) -> tuple[Operand | None, ...]:
        """What results come from: the inputs, and what bodies hand out."""
        return (*self.inputs, *(o for body in self.bodies for o in body.outputs))

    @cached_property
    def results(self) -> tuple[Operand | None, ...]:
        """What the node makes: the outputs, and what it gives to its bodies."""
        return (*self.outputs, *(o for body in self.bodies for o in body.inputs))

    @cached_property
    def present(self) -> tuple[Operand, ...]:
        """Sources and results that are not omitted."""
        return tuple(o for o in (*self.sources, *self.results) if o is not None)

    def ints(self, attribute: str, index: int) -> list[int] | None:
        """A list of integers that older opsets keep in ``attribute`` and newer ones in constant input ``index``.

        ``None`` where neither is given, or where the input is computed at run time.
        """
        if attribute in self.attrs:
            value = self.attrs[attribute]
            return [int(v) for v in value] if isinstance(value, Iterable) else [int(value)]
        operand = self.input(index)
        if operand is None or operand.constant is None:
            return None
        return [int(v) for v in operand.values.ravel()]


# Old numbers of the positions that stay on an axis, ascending.
Kept = Callable[[Operand, int], np.ndarray]
Ties = Iterator[Tie | Pin | Choice]


def _no_macs(call: Call) -> int:
    return 0


def _no_layer(call: Call) -> Layer | None:
    return None


def _no_routing(call: Call) -> Routing | None:
    return None


def _no_counting(call: Call) -> Counting | None:
    return None


Silence = Callable[[Call, Sequence[np.ndarray]], np.ndarray]
"""For an axis of a result: whether each position is silent, given for each source which positions are zero by it.

A source is zero at a position it is tied to silent positions there; elsewhere, and where it is omitted, it is not.
"""


def never(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Not silent, whatever comes in."""
    return np.zeros_like(zero[0])


def first(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Zero where the first input is."""
    return zero[0]


def some(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Zero where any input is: products, and what is moved from one of several inputs."""
    return np.logical_or.reduce(zero)


def every(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Zero where all inputs are: sums."""
    return np.logical_and.reduce(zero)


def alone(silence: Silence) -> Silence:
    """For operators whose further outputs, where asked for, are no zeros."""

    def of_first(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
        return never(call, zero) if any(call.outputs[1:]) else silence(call, zero)

    return of_first


def affine(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """A product of the first two inputs, with a third added where it is given."""
    product = zero[0] | zero[1]
    return product if call.input(2) is None else product & zero[2]


@dataclass(frozen=True)
class Rule:
    """All that is known of an operator.

    Attributes:
        ties: what the operator couples.
        repair: rewrites attributes or constant integer inputs of the copied node after a cut; ``call`` has the shapes
            from before. It returns nodes to add around that node, if any.
        macs: multiply-accumulates of one call at its shapes.
        neutral: for an input index, the value that stands for "absent" where 0 would divide by zero.
        layer: the operator as a matrix product with a constant weight, where a call is one.
        zero_points: for an input of whole numbers that may be a weight, the input that holds what stands for 0 there.
        sizes: the input that is a list of sizes, as ``Call.sizes`` has them, where there is one.
        why: the reason to give for axes that the ties do not mention, where it is not the usual one.
        silence: where the outputs are silent.
        routes: along what it shares out or chooses, where a position can be absent from that; its ties speak of it.
        counts: what the numbers in an input count on; its ties do not speak of these axes.
    """

    ties: Callable[[Call], Ties]
    repair: Callable[[gs.Node, Call, Kept], Iterable[gs.Node] | None] | None = None
    macs: Callable[[Call], int] = _no_macs
    neutral: Mapping[int, float] = field(default_factory=dict)
    layer: Callable[[Call], Layer | None] = _no_layer
    zero_points: Mapping[int, int] = field(default_factory=dict)
    sizes: int | None = None
    why: str = ""
    silence: Silence = never
    routes: Callable[[Call], Routing | None] = _no_routing
    counts: Callable[[Call], Counting | None] = _no_counting


def tie(
    a: Operand,
    axis_a: int,
    b: Operand,
    axis_b: int,
    at_a: np.ndarray | None = None,
    at_b: np.ndarray | None = None,
    *,
    summed: bool = False,
) -> Tie:
    """Tie two axes, position by position unless given otherwise."""
    if at_a is None:
        at_a = np.arange(a.shape[axis_a])
    if at_b is None:
        at_b = np.arange(b.shape[axis_b])
    assert len(at_a) == len(at_b), f"{a.name}[{axis_a}] and {b.name}[{axis_b}] do not pair up"
    return Tie(a.dim(axis_a), b.dim(axis_b), at_a, at_b, summed)


def cover(a: Operand, axis: int, at: np.ndarray) -> Tie:
    """Declare positions of an output axis that come from no input but may go all the same."""
    return Tie(a.dim(axis), a.dim(axis), at, at)


def reduction(x: Operand, axis: int) -> Tie:
    """Declare an input axis that is summed over."""
    return tie(x, axis, x, axis, summed=True)


def tie_all(a: Operand, b: Operand) -> Ties:
    """Tie every axis of two tensors of one rank wherever the sizes agree."""
    for axis in range(b.rank):
        if a.shape[axis] == b.shape[axis]:
            yield tie(a, axis, b, axis)


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return int(axis) % rank if rank else 0


def set_ints(node: gs.Node, attribute: str, index: int, values: Iterable[int]) -> None:
    """Replace a list of integers where the node keeps it: in ``attribute`` or in constant input ``index``."""
    values = [int(v) for v in values]
    if attribute in node.attrs:
        node.attrs[attribute] = values
        return
    given = node.inputs[index] if index < len(node.inputs) else None
    dtype = given.dtype if isinstance(given, gs.Constant) else np.int64  # several inputs may have to share one type
    replacement = gs.Constant(f"{node.outputs[0].name}:{attribute}", np.asarray(values, dtype))
    if given is not None:
        node.inputs[index] = replacement
    else:
        node.inputs.append(replacement)


def set_sizes(node: gs.Node, call: Call, index: int, new: Mapping[int, int]) -> Iterator[gs.Node]:
    """Replace elements of the list of sizes in input ``index``; a list joined at run time is joined anew."""
    if not new:
        return
    given = node.inputs[index]
    name = f"{node.outputs[0].name}:{given.name}:left"  # of a list that others may share, and may be cut again
    if isinstance(given, gs.Constant):
        node.inputs[index] = gs.Constant(name, _replaced(given, new))
        return
    parts, starts = [], np.cumsum([0, *call.parts])
    for part, start in zip(given.inputs[0].inputs, starts, strict=False):
        own = {k - start: n for k, n in new.items()} if isinstance(part, gs.Constant) else {}
        parts.append(gs.Constant(f"{name}:{start}", _replaced(part, own)) if own else part)
    node.inputs[index] = joined = gs.Variable(name, given.dtype)
    yield gs.Node("Concat", name, {"axis": 0}, parts, [joined])


def _replaced(numbers: gs.Constant, new: Mapping[int, int]) -> np.ndarray:
    values = np.array(numbers.values).ravel()
    for at, value in new.items():
        if 0 <= at < len(values):
            values[at] = value
    return values


def scaled(node: gs.Node, call: Call, factor: float, dtype: np.dtype | None = None) -> Iterable[gs.Node]:
    """Multiply a node's first output by a number, of its type unless said otherwise; nothing for 1."""
    if factor != 1:
        output = node.outputs[0]
        node.outputs[0] = inner = gs.Variable(f"{output.name}:unscaled")
        constant = gs.Constant(f"{output.name}:scale", np.array(factor, dtype or call.y.dtype))
        yield gs.Node("Mul", f"{node.name or output.name}:rescale", inputs=[inner, constant], outputs=[output])
