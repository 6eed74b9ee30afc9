"""Proof by execution: two models compute the same, in onnxruntime, on seeded inputs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from graphprune.cut import Gone
from graphprune.errors import GraphpruneError, InvalidModelError
from graphprune.model import Model, streaming
from graphprune.model.session import on_device, session
from graphprune.model.shapes import symbolic_axes
from graphprune.model.weights import DataFile, change

Arrays = Mapping[str, np.ndarray]
"""By name of an input or output."""

Inputs = Arrays | str | os.PathLike[str] | None
"""Real inputs, [items, ...] by name: arrays, the path of an npz file, or none."""

# The law's tolerance by the coarsest floating-point type of the graph: a few hundred roundings of its mantissa.
LAW_RTOL = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2}
# Passes that reorder arithmetic (folding a BatchNorm) round differently at every layer.
REWRITE_RTOL = {"float64": 1e-8, "float32": 1e-4, "float16": 5e-2}
# Between layers, values may nearly cancel and show more of the rounding; a wrong graph is off by their whole size.
LAYERS_RTOL = {"float64": 1e-6, "float32": 1e-3, "float16": 1e-1}
# Elements of inner tensors to look at; beyond that, the largest tensors are passed over.
WATCHED_ELEMENTS = 1 << 26
# Some networks amplify rounding beyond these. What moving their inputs by one rounding does, times this, is allowed
# then, up to the share below.
ROUNDINGS = 8
LARGEST_RTOL = 1e-2
# Inputs that go through the parts of a streamed model together.
TOGETHER = 16
# A compiled library sums in another order than onnxruntime.
COMPILED_RTOL = REWRITE_RTOL


class Agreement(msgspec.Struct, frozen=True):
    """How far two models' outputs are apart.

    Attributes:
        error: the largest over all outputs of max |a - b| / max |b|, or max |a - b| where b is all zero; infinite where
            shapes, NaNs or infinities differ.
        rtol: what was allowed.
        outputs: the error of each output.
        silent: outputs that are constant zero on the reference, or within what is forgiven, which prove nothing.
        given: tensors that say which of nearly equal numbers were chosen, where both models were given them.
    """

    error: float
    rtol: float
    outputs: dict[str, float]
    silent: list[str]
    given: list[str] = []

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.rtol


class Runner:
    """Runs a model in onnxruntime.

    Args:
        model: the model to run; where it is streamed, and not ``optimise``, every call runs it part by part.
        optimise: whether onnxruntime may rewrite the graph; off for proofs, on for timing.
        threads: of one operator; 0 lets onnxruntime decide.
        also: names of inner tensors to return beside the outputs.
        keep: whether memory may be spent on speed, a second copy of the weights above all; by default, where
            onnxruntime may rewrite the graph.

    Raises:
        InvalidModelError: onnxruntime cannot run the model.
    """

    def __init__(
        self,
        model: Model,
        *,
        optimise: bool = False,
        threads: int = 0,
        also: Collection[str] = (),
        keep: bool | None = None,
    ) -> None:
        self._name, self._inputs = model.name, frozenset(model.inputs)
        self._run: Callable[[Arrays], dict[str, np.ndarray]]
        self._run_all: Callable[[Sequence[Arrays]], list[dict[str, np.ndarray]]] | None = None
        if model.streamed and not optimise:
            self._run = lambda inputs: streaming.run(model, [inputs], also)[0]
            self._run_all = lambda batches: streaming.run(model, batches, also)
            return
        try:
            opened = opened_session(model, optimise, threads, also, keep=optimise if keep is None else keep)
        except Exception as error:  # onnxruntime raises a class per status code, none of them public
            raise InvalidModelError(
                f"{model.name} cannot be run by onnxruntime: {_first_line(error)}",
                "verification needs a model that onnxruntime runs; check operators, domains and opset",
            ) from error
        names = [o.name for o in opened.get_outputs()]
        self._run = lambda inputs: dict(zip(names, opened.run(names, inputs), strict=True))

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; inputs that the model does not have are passed over."""
        return self._guarded(self._run, self._own(inputs))

    def each(self, batches: Sequence[Arrays]) -> Iterator[dict[str, np.ndarray]]:
        """Outputs by name, for one input after another; parts of a streamed model are made once for several."""
        if self._run_all is None:
            yield from map(self, batches)
            return
        for start in range(0, len(batches), TOGETHER):
            yield from self._guarded(self._run_all, list(map(self._own, batches[start : start + TOGETHER])))

    def _own(self, inputs: Arrays) -> Arrays:
        return {name: values for name, values in inputs.items() if name in self._inputs}

    def _guarded(self, run: Callable[[Any], Any], given: Any) -> Any:
        try:
            return run(given)
        except GraphpruneError:
            raise
        except Exception as error:
            raise InvalidModelError(
                f"{self._name} fails at the analysis sizes: {_first_line(error)}",
                "give real input sizes with --input-shape NAME:1,3,224,224 or --dim-param NAME=SIZE",
            ) from error


def opened_session(
    model: Model, optimise: bool, threads: int = 0, also: Collection[str] = (), *, profile: str = "", keep: bool = True
) -> ort.InferenceSession:
    """A session over a model, with open sizes as the model has them; arguments as of ``Runner`` and ``session``."""
    with tempfile.TemporaryDirectory() as folder:
        values: dict[str, np.ndarray] = {}
        with DataFile(Path(folder) / "weights") as data:
            inline = optimise and on_device() and not model.streamed
            proto = model.proto(data=None if inline else data if model.streamed else values)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also if name not in model.outputs)
        for info in [*proto.graph.input, *proto.graph.output]:
            for axis in symbolic_axes(info):  # onnxruntime would take an open size that is written as 0 at its word
                info.type.tensor_type.shape.dim[axis].ClearField("dim_value")
        if not model.streamed:
            given = proto.SerializeToString()
            return session(given, values=values, optimise=optimise, threads=threads, keep=keep, profile=profile)
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return session(str(path), optimise=optimise, threads=threads, keep=keep, profile=profile)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# Operators whose results are their first input's numbers, arranged another way.
_KEEPS_NUMBERS = frozenset(["Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])


def seeded_inputs(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs at the analysis shapes: standard normal floats, coin flips for booleans, small whole numbers.

    Whole numbers stay below the length of any table they index, so that token ids are legal.
    """
    rng = np.random.default_rng(seed)
    limit = _index_limits(model)
    inputs: dict[str, np.ndarray] = {}
    for name, info in model.inputs.items():
        if not info.type.HasField("tensor_type"):
            raise InvalidModelError(
                f"{model.name}: input '{name}' is a sequence, map or optional", "only tensor inputs are supported"
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = model.input_shapes[name]
        if dtype.kind == "f":
            inputs[name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b":
            inputs[name] = rng.integers(0, 2, shape).astype(dtype)
        elif dtype.kind in "iu":
            inputs[name] = rng.integers(0, limit.get(name, 2), shape).astype(dtype)
        else:
            raise InvalidModelError(
                f"{model.name}: no inputs can be made up for '{name}' of type {dtype}",
                "only numeric inputs are supported",
            )
    return inputs


def whole_number_readers(model: Model) -> Iterator[tuple[str, gs.Node, int]]:
    """Every node that reads the numbers of a graph input in some form: the input, the node, which of its inputs."""
    for tensor in model.graph.inputs:
        same = [tensor]  # grows: the input, and what holds the same numbers in another form
        for other in same:
            for node in other.outputs:
                if node.op in _KEEPS_NUMBERS:
                    same.extend(node.outputs)
                else:
                    yield tensor.name, node, next(k for k, t in enumerate(node.inputs) if t is other)


def _index_limits(model: Model) -> dict[str, int]:
    """How far whole numbers of an input may go: the length of the shortest list they index or are looked up in."""
    limits: dict[str, int] = {}
    for name, node, place in whole_number_readers(model):
        if (limit := _index_limit(model, node, place)) is not None:
            limits[name] = max(1, min(limit, limits.get(name, limit)))
    return limits


def _index_limit(model: Model, node: gs.Node, place: int) -> int | None:
    if node.op == "Gather" and place == 1:
        shape = model.shapes.get(node.inputs[0].name, ())
        return shape[node.attrs.get("axis", 0)] if shape else None
    if node.op == "OneHot" and place == 0 and isinstance(node.inputs[1], gs.Constant):
        return int(np.max(node.inputs[1].values))
    if node.op == "Equal" and isinstance(numbers := node.inputs[1 - place], gs.Constant):
        return max(2, int(np.max(numbers.values)) + 1) if numbers.dtype.kind in "iu" else None
    return None


def compare(
    result: Arrays, reference: Arrays, rtol: float, forgiven: Mapping[str, float] = MappingProxyType({})
) -> Agreement:
    """Measure how far ``result`` is from ``reference``, output by output, against its largest value if it has any.

    Args:
        result: arrays by name.
        reference: what they must be.
        rtol: what is allowed.
        forgiven: by name, how far numbers may be apart and count as equal.
    """
    errors: dict[str, float] = {}
    silent = []
    for name, b in reference.items():
        a = result.get(name)
        if a is None or a.shape != b.shape or a.dtype != b.dtype:
            errors[name] = float("inf")
        elif b.dtype.kind != "f":
            errors[name] = 0.0 if np.array_equal(a, b) else float("inf")
        else:
            a64, b64 = a.astype(np.float64), b.astype(np.float64)
            finite = np.isfinite(b64)
            if not np.array_equal(a64[~finite], b64[~finite]) or not np.isfinite(a64[finite]).all():
                errors[name] = float("inf")  # infinities may agree; NaN equals nothing, so nothing is proved
                continue
            a64, b64 = a64[finite], b64[finite]
            scale = float(np.abs(b64).max(initial=0.0))
            apart = float(np.abs(a64 - b64).max(initial=0.0)) - forgiven.get(name, 0.0)
            errors[name] = max(apart, 0.0) / (scale or 1.0)
            if scale <= forgiven.get(name, 0.0):
                silent.append(name)
    return Agreement(max(errors.values(), default=0.0), rtol, errors, silent)


def judge(result: Arrays, reference: Arrays, rtol: float, model: Model, inputs: Arrays) -> Agreement:
    """Measure how far the outputs of ``model``, which made the reference, are from those of another.

    Where they are further apart than ``rtol`` allows, what rounding alone does is looked at. A Sigmoid rounds numbers
    near 1, however small its result: what it reads is compared in place of an output that it makes, where both sides
    have that, and else a few roundings of 1 are forgiven. And some networks amplify a rounding of their inputs to more
    than ``rtol``: no two ways to compute them agree better. The tolerance returned says what was allowed.

    Args:
        result: outputs, and maybe inner tensors.
        reference: what they must be.
        rtol: what is allowed.
        model: that made the reference.
        inputs: that it was made from.
    """
    outputs = {name: reference[name] for name in model.outputs if name in reference}
    agreement = compare(result, outputs, rtol)
    if agreement.holds or not np.isfinite(agreement.error):
        return agreement
    squashed = _squashed(model)
    seen = [read if (read := squashed.get(n, n)) in result and read in reference else n for n in outputs]
    compared = {name: reference[name] for name in seen}
    forgiven = {n: ROUNDINGS * float(np.finfo(reference[n].dtype).eps) for n in squashed.keys() & compared.keys()}
    agreement = compare(result, compared, rtol, forgiven)
    if agreement.holds:
        return agreement
    moved = compare(_moved_by_a_rounding(model, inputs, compared), compared, rtol, forgiven).error
    return compare(result, compared, max(rtol, min(ROUNDINGS * moved, LARGEST_RTOL)), forgiven)


def _squashed(model: Model) -> dict[str, str]:
    """The outputs of a model that a Sigmoid makes, by name, with the name of what it reads."""
    makers = {t.name: node for node in model.graph.nodes for t in node.outputs if node.op == "Sigmoid"}
    return {name: makers[name].inputs[0].name for name in model.outputs if name in makers}


def _moved_by_a_rounding(model: Model, inputs: Arrays, also: Collection[str]) -> dict[str, np.ndarray]:
    """Outputs, and inner tensors, once every floating-point input, or else every matrix, is moved by one rounding."""
    rng = np.random.default_rng(0)

    def moved(values: np.ndarray) -> np.ndarray:
        factor = 1 + np.finfo(values.dtype).eps * rng.choice([-1.0, 1.0], values.shape)
        return (values * factor).astype(values.dtype)

    if any(x.dtype.kind == "f" for x in inputs.values()):
        return Runner(model, also=also)({n: moved(x) if x.dtype.kind == "f" else x for n, x in inputs.items()})
    copy = model.copy()
    for constant in copy.constants.values():
        if constant.dtype.kind == "f" and len(constant.shape) > 1:
            change(constant, lambda rows, at: moved(rows), tuple(constant.shape))
    return Runner(copy, also=also)(inputs)


def watched(model: Model) -> dict[str, tuple[str, ...]]:
    """The inner tensors worth comparing, each with the tensors it is computed from; small ones first, within bounds."""
    made = {
        t.name: tuple(i.name for i in n.inputs)
        for n in model.graph.nodes
        for t in n.outputs
        if t.name and model.reads(t)
    }
    sizes = {name: prod(shape) for name in made if None not in (shape := model.shapes.get(name, (None,)))}  # type: ignore[arg-type]
    found, total = {}, 0
    for name in sorted(sizes, key=lambda n: sizes[n]):
        total += sizes[name]
        if total > WATCHED_ELEMENTS:
            break
        found[name] = made[name]
    return found


def compare_layers(
    result: Arrays, reference: Arrays, made_from: Mapping[str, Collection[str]], gone: Gone, rtol: float
) -> Agreement:
    """Measure how far what is left of every inner tensor is from the same positions of the reference.

    This is the law layer by layer: it sees a wrong cut even where the outputs saturate. A tensor much smaller than what
    it is computed from (values that cancel, or are clipped) is measured against a hundredth of that.

    Args:
        result: tensors of the cut model.
        reference: tensors of the zeroed model, at their old sizes.
        made_from: the tensors to compare, and what each is computed from.
        gone: the positions cut from each axis.
        rtol: what is allowed.
    """
    masks: dict[str, list[tuple[int, np.ndarray]]] = {}
    for dim, mask in gone.items():
        masks.setdefault(dim.tensor, []).append((dim.axis, mask))
    scales = {n: float(np.abs(v[np.isfinite(v)]).max(initial=0)) for n, v in reference.items() if v.dtype.kind == "f"}
    errors = {}
    for name, sources in made_from.items():
        a, b = result[name], reference[name]
        for axis, mask in masks.get(name, ()):
            b = np.compress(~mask, b, axis=axis)
        if a.shape != b.shape or a.dtype != b.dtype:
            errors[name] = float("inf")
        elif b.dtype.kind != "f":
            continue  # indices and masks: what they pick shows in the tensors they feed
        else:
            finite = np.isfinite(b)
            scale = max([scales[name], *(0.01 * scales.get(source, 0.0) for source in sources)])
            apart = float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0.0))
            same = np.array_equal(finite, np.isfinite(a)) and (not apart or scale)
            errors[name] = (apart / scale if apart else 0.0) if same else float("inf")
    return Agreement(max(errors.values(), default=0.0), rtol, errors, [])


def rtol(model: Model, table: Mapping[str, float]) -> float:
    """The tolerance that fits the coarsest floating-point type among a model's constants and interface."""
    kinds = {str(c.dtype) for c in model.constants.values()}
    kinds |= {
        str(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
        for info in [*model.inputs.values(), *model.outputs.values()]
    }
    return max((table[k] for k in kinds if k in table), default=table["float32"])
