"""Tiny nets from text, and the law held against them.

A net is written in ONNX text syntax; its weights are given by shape (drawn from a seed) or by value. What its groups
must be is written as text too: ``"6 a[0] b[1]*4"`` is a group of 6 units that touches axis 0 of weight ``a`` and axis 1
of weight ``b``, there with 4 positions for each unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graphprune.cost import CostModel
from graphprune.cut import Drop, cut, gone, zeroed
from graphprune.groups import Group, analyse
from graphprune.model import Model, load
from graphprune.proof import LAW_RTOL, Agreement, Arrays, Runner, compare, judge, rtol, seeded_inputs
from graphprune.rules import Dim

Weight = tuple[int, ...] | np.ndarray


def net(
    body: str,
    *,
    inputs: str = "float[1,3,8,8] x",
    outputs: str = "y",
    known: str = "",
    opset: int = 17,
    seed: int = 0,
    **weights: Weight,
) -> ModelProto:
    """A model from the text of its nodes; outputs are typed by shape inference, with the help of ``known`` types."""
    results = ", ".join(f"float {name}" for name in outputs.split())
    graph = onnx.parser.parse_graph(f"net ({inputs}) => ({results}) <{known}> {{ {body} }}")
    rng = np.random.default_rng(seed)
    for name, weight in weights.items():
        values = weight if isinstance(weight, np.ndarray) else draw(rng, weight)
        graph.initializer.append(numpy_helper.from_array(values, name))
    return typed(graph, opset)


def typed(graph: onnx.GraphProto, opset: int = 17) -> ModelProto:
    """A model around a graph whose outputs get the types and shapes that inference finds."""
    names = [info.name for info in graph.output]
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Random weights that keep activations at about unit size."""
    return (rng.standard_normal(shape) / np.sqrt(max(1, prod(shape[1:])))).astype(dtype)


def brief(group: Group) -> str:
    """A group as expectations are written."""
    parts = [f"{dim}" + (f"*{n}" if (n := group.per_unit(dim)) > 1 else "") for dim in group.weights]
    return f"{group.size} {' '.join(parts)}"


def halves(groups: Iterable[Group], seed: int = 0, share: float = 0.5) -> dict[str, np.ndarray]:
    """A random choice of units to drop: ``share`` of each group, at least one unit, never too many."""
    rng = np.random.default_rng(seed)
    return {g.name: rng.permutation(g.size)[: min(g.size - g.least, max(1, round(share * g.size)))] for g in groups}


_WRONG = 1e-2  # a wrong graph is off by more, whatever float32 can tell


def agree(model: Model, groups: Iterable[Group], drop: Drop, seed: int = 0, *, amplifies: bool = False) -> Agreement:
    """The law: the cut model against the zeroed one.

    Where terms cancel, float32 rounds by more than the tolerance: such a net is judged in float64, a thousand times
    more strictly.

    Args:
        model: the model.
        groups: its groups.
        drop: the units to remove.
        seed: of the inputs.
        amplifies: whether the net may make much of a rounding of its inputs, and have operators that onnx's reference
            does not compute in float64: then it is first judged as runs of graphprune are, and by what the last bits of
            its weights do where nothing else is left.
    """
    going = gone(groups, drop)
    inputs = seeded_inputs(model, seed)
    small, silent = cut(model, going), zeroed(model, going)
    result, reference = Runner(small, threads=1)(inputs), Runner(silent, threads=1)(inputs)
    allowed = rtol(model, LAW_RTOL)
    agreement = judge(result, reference, allowed, silent, inputs) if amplifies else compare(result, reference, allowed)
    if agreement.holds or allowed != LAW_RTOL["float32"]:
        return agreement
    try:
        return compare(_doubled(small, inputs), _doubled(silent, inputs), LAW_RTOL["float32"] / 1000)
    except Exception:  # of a reference that does not know an operator, or not in float64
        if amplifies:
            blurred = compare(Runner(_blurred(silent, seed), threads=1)(inputs), reference, allowed)
            return compare(result, reference, max(allowed, min(10 * blurred.error, _WRONG)))
        raise


def _blurred(model: Model, seed: int) -> Model:
    """The model with every weight another by the last bit: how much float32 can tell of what it computes."""
    rng, blurred = np.random.default_rng(seed), model.copy()
    for constant in blurred.constants.values():
        if constant.dtype == np.float32:
            constant.values = constant.values * (1 + 6e-8 * rng.choice([-1, 1], constant.values.shape)).astype(
                np.float32
            )
    return replace(blurred)


class SkipLayerNormalization(OpRun):
    """onnxruntime's operator, of which onnx's reference knows nothing; it magnifies what nearly cancels."""

    op_domain = "com.microsoft"

    def _run(
        self,
        x: np.ndarray,
        skip: np.ndarray,
        gamma: np.ndarray,
        beta: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        epsilon: float = 1e-12,
    ) -> tuple[np.ndarray, ...]:
        total = x + skip + (0 if bias is None else bias)
        mean = total.mean(-1, keepdims=True)
        inverse = 1 / np.sqrt(total.var(-1, keepdims=True) + epsilon)
        y = (total - mean) * inverse * gamma + (0 if beta is None else beta)
        return (y, mean, inverse, total)[: len(self.onnx_node.output)]


def _doubled(model: Model, inputs: Arrays) -> dict[str, np.ndarray]:
    """The outputs of a float32 model by onnx's reference implementation in float64."""
    proto = model.proto()
    del proto.graph.value_info[:]
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for info in [*proto.graph.input, *proto.graph.output]:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Cast" else ():
            attribute.i = TensorProto.DOUBLE if attribute.i == TensorProto.FLOAT else attribute.i
    doubles = {n: x.astype(np.float64) if x.dtype == np.float32 else x for n, x in inputs.items()}
    values = ReferenceEvaluator(proto, new_ops=[SkipLayerNormalization]).run(None, doubles)
    return dict(zip(model.outputs, map(np.asarray, values), strict=True))


def assert_law(model: Model, drop: Drop | None = None, seed: int = 0, silent: bool = False) -> None:
    """Fail unless cutting ``drop`` (half of every group) equals zeroing it, on outputs that are not all zero."""
    groups = analyse(model).groups
    agreement = agree(model, groups, halves(groups, seed) if drop is None else drop, seed)
    assert agreement.holds, agreement
    assert silent or not agreement.silent, agreement


@dataclass(frozen=True)
class Case:
    """A tiny net and its groups.

    Attributes:
        name: what is special about it.
        model: the net.
        groups: all its groups, in order, as ``brief`` writes them.
        matters: whether cutting must change the outputs; false where they are discrete.
    """

    name: str
    model: ModelProto
    groups: tuple[str, ...]
    matters: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def operators(self) -> set[str]:
        """The operators in the net, as the table has them."""
        return {f"{node.domain}.{node.op_type}".removeprefix(".") for node in self.model.graph.node}


def case(name: str, body: str, *groups: str, matters: bool = True, **options: object) -> Case:
    """A case; ``options`` are those of ``net``."""
    return Case(name, net(body, **options), groups, matters)  # type: ignore[arg-type]


def between(name: str, body: str, *groups: str, pinned: bool = False, bare: bool = False, **options: object) -> Case:
    """A case whose ``body`` makes ``u`` from ``t``, six channels of an image between two convolutions.

    Left unsaid, the channels are one group; ``pinned``: there is none; ``bare``: the body makes the outputs itself.
    """
    weights: dict[str, object] = {"a": (6, 3, 1, 1), "c": (6,), "b": (4, 6, 1, 1)}
    text = f"t = Conv(x, a, c)\n{body}\ny = Conv(u, b)"
    if bare:
        text = text.removesuffix("\ny = Conv(u, b)")
        del weights["b"]
    return case(name, text, *(() if pinned else groups or ("6 a[0] c[0] b[1]",)), **{**weights, **options})


def among(name: str, body: str, *groups: str, pinned: bool = False, **options: object) -> Case:
    """A case whose ``body`` makes ``u`` from ``t``, six columns of a matrix between two products."""
    text = f"t = MatMul(x, a)\n{body}\ny = MatMul(u, b)"
    given = {"inputs": "float[2,5,3] x", "a": (3, 6), "b": (6, 4)}
    return case(name, text, *(() if pinned else groups or ("6 a[1] b[0]",)), **{**given, **options})


def check(case: Case) -> None:
    """Hold a case against its expectation: groups, law, weights that shrink as expected, cost that foresees it."""
    model = load(case.model)
    dependencies = analyse(model)
    groups = dependencies.groups
    assert tuple(brief(g) for g in groups) == case.groups, "\n".join(f"{p.dim}: {p.why}" for p in dependencies.pinned)
    inputs = seeded_inputs(model)
    before = Runner(model, threads=1)(inputs)
    drops = [halves(groups, seed=1), halves(groups, seed=2, share=1.0)]
    for drop in drops:
        going = gone(groups, drop)
        small, silent = cut(model, going), zeroed(model, going)
        result = Runner(small, threads=1)(inputs)
        agreement = compare(result, Runner(silent, threads=1)(inputs), rtol(model, LAW_RTOL))
        assert agreement.holds, agreement
        assert not agreement.silent
        expected = _shapes_after(model, case.groups, [len(drop[g.name]) for g in groups])
        assert {n: tuple(c.shape) for n, c in small.constants.items() if n in expected} == expected
        foreseen = CostModel(model, groups).at({n: len(units) for n, units in drop.items()})
        actual = CostModel(small).at()
        assert (foreseen.parameters, foreseen.macs) == (actual.parameters, actual.macs)
        assert actual.parameters < CostModel(model).at().parameters or not groups
        for name, shape in small.shapes.items():
            if shape and model.shapes.get(name) and Dim(name, 0) in dependencies.graph:  # what nobody reads is not
                _assert_shrunk(name, shape, model.shapes[name], going)
    if groups and case.matters:
        changed = compare(result, before, 0.0)
        assert changed.error > 1e-3, "the cut changes nothing, so it proves nothing"


def _shapes_after(model: Model, groups: Iterable[str], removed: Iterable[int]) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights named by an expectation once ``removed`` units of each group are gone."""
    shapes: dict[str, list[int]] = {}
    for text, count in zip(groups, removed, strict=True):
        for axis in text.split()[1:]:
            where, _, times = axis.partition("*")
            tensor, _, number = where.removesuffix("]").rpartition("[")
            shape = shapes.setdefault(tensor, list(model.constants[tensor].shape))
            shape[int(number)] -= count * int(times or 1)
    return {name: tuple(shape) for name, shape in shapes.items()}


def _assert_shrunk(
    name: str, after: tuple[int | None, ...], before: tuple[int | None, ...], going: Mapping[Dim, np.ndarray]
) -> None:
    for axis, (new, old) in enumerate(zip(after, before, strict=True)):
        if new is not None and old is not None:
            lost = int(going[Dim(name, axis)].sum()) if Dim(name, axis) in going else 0
            assert new == old - lost, f"{name}[{axis}]"
