"""Made-up inputs, and the values of inner tensors on them, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, ValueInfoProto

from graphprune.calibration.noise import KINDS
from graphprune.calibration.tokens import drawn, inputs_for, reader, sequences, writer
from graphprune.errors import InvalidModelError, UsageError
from graphprune.model import Model
from graphprune.model.shapes import Shape, symbolic_axes
from graphprune.model.surgeon import is_standard
from graphprune.progress import track
from graphprune.proof import Runner, seeded_inputs

Inputs = Mapping[str, np.ndarray]

MEMORY = 1 << 28  # bytes of activations held at a time
POSITIONS = 2048  # so many positions of a tensor are looked at for each set of inputs
BATCH = "graphprune_batch"


def batched(model: Model) -> Model:
    """The model with the first axis of its inputs open if it runs at twice the size, else fixed.

    Reshapes that spell the size of the first axis out copy it instead, where that lets every item come out as alone.
    """
    template, others = seeded_inputs(model), seeded_inputs(model, 1)
    doubled = {name: np.concatenate([x, others[name]]) if x.ndim else x for name, x in template.items()}
    opened = _with_first_axis(model, None)
    if _run_twice(opened, doubled, model.shapes):
        return opened
    if (views := _with_open_views(model)) is not None:
        opened = _with_first_axis(views, None)
        twice = _run_twice(opened, doubled, model.shapes)
        if twice and all(_alike(twice[name][: len(x)], x) for name, x in Runner(model)(template).items()):
            return opened
    return _with_first_axis(model, {name: len(x) for name, x in template.items() if x.ndim})


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    if b.dtype.kind != "f":
        return np.array_equal(a, b)
    return np.allclose(a, b, rtol=0, atol=1e-3 * np.abs(b).max(initial=0.0), equal_nan=True)


def _run_twice(opened: Model, doubled: Inputs, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The outputs for inputs of twice the size, nothing where they do not come out so."""
    try:
        outputs = Runner(opened)(doubled)
    except InvalidModelError:
        return {}
    sizes = {name: shapes.get(name) for name in outputs}
    return outputs if all(s and s[0] and len(outputs[name]) == 2 * s[0] for name, s in sizes.items()) else {}


def _with_open_views(model: Model) -> Model | None:
    """The model with Reshapes that copy the size of the first axis in place of spelling it out, if there are any."""
    result, found = model.copy(), False
    for node in result.graph.nodes:
        if node.op != "Reshape" or not is_standard(node) or node.attrs.get("allowzero", 0):
            continue
        source, target = model.shapes.get(node.inputs[0].name), node.inputs[1]
        if isinstance(target, gs.Constant) and source and target.values.size and target.values[0] == source[0]:
            sizes = np.array([0, *target.values[1:]], np.int64)
            node.inputs[1] = gs.Constant(f"{node.outputs[0].name}:open", sizes)
            found = True
    return result if found else None


def is_open(model: Model) -> bool:
    """Whether ``batched`` could open the first axis."""
    infos = (info.type.tensor_type.shape.dim for info in model.inputs.values())
    return any(dims[:1] and dims[0].dim_param == BATCH for dims in infos)


def _with_first_axis(model: Model, sizes: Mapping[str, int] | None) -> Model:
    header = ModelProto()
    header.CopyFrom(model.header)
    for info in [*header.graph.input, *header.graph.output]:
        if info.type.tensor_type.shape.dim:
            if sizes is None:
                info.type.tensor_type.shape.dim[0].dim_param = BATCH
            elif info.name in sizes:
                info.type.tensor_type.shape.dim[0].dim_value = sizes[info.name]
    return replace(model, header=header)


def read_inputs(path: str | os.PathLike[str]) -> Inputs:
    """The arrays of an npz file, by name."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except Exception as error:  # damaged archives raise a dozen kinds
        hint = "numpy.savez(path, INPUT=array) writes one"
        raise UsageError(f"{path} cannot be read as an npz file: {error}", hint) from error


def checked(inputs: Inputs, model: Model, source: str = "the real inputs") -> Inputs:
    """Arrays as the model's inputs take them, whole numbers and other sizes of floating-point ones converted.

    Args:
        inputs: arrays by name.
        model: at the sizes wanted.
        source: where they are from, for errors.

    Raises:
        UsageError: an input has no array; or one of another kind or shape, but for how many items it holds and for
            sizes that the model leaves open; or not all values are finite.
    """
    _complete(inputs, model, source)
    fitting = dict(inputs)
    for name, info in model.inputs.items():
        x = inputs[name]
        shape, dtype = model.input_shapes[name], onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        free = {0} | symbolic_axes(info)
        sizes = [None if axis in free else size for axis, size in enumerate(shape)]
        if x.ndim != len(sizes) or any(size not in (None, have) for size, have in zip(sizes, x.shape, strict=True)):
            wanted = ", ".join(str(size or "any") for size in sizes)
            raise UsageError(
                f"{source}: array '{name}' is [{', '.join(map(str, x.shape))}], {model.name} takes [{wanted}]",
                "items are counted along the first axis",
            )
        if not np.can_cast(x.dtype, dtype, "same_kind"):
            raise UsageError(f"{source}: array '{name}' holds {x.dtype}, {model.name} takes {dtype}", "convert it")
        with np.errstate(over="ignore"):
            fitting[name] = x.astype(dtype, copy=False)
        if dtype.kind == "f" and not np.isfinite(fitting[name]).all():
            raise UsageError(f"{source}: array '{name}' holds values that are not finite", "leave such items out")
    return fitting


def _complete(inputs: Inputs, model: Model, source: str) -> None:
    if missing := sorted(set(model.inputs) - set(inputs)):
        raise UsageError(f"{source}: no array is called '{missing[0]}'", "name arrays like the inputs")


def real(data: Mapping[str, Any]) -> Inputs:
    """The real inputs that a caller left for the passes; raises ``UsageError`` where there are none."""
    if data.get("inputs") is None:
        raise UsageError("this pipeline was made with real inputs and needs them", "give --calibration-data x.npz")
    inputs: Inputs = data["inputs"]
    return inputs


def has_images(model: Model) -> bool:
    """Whether an input is a batch of images: four axes, floating point."""
    return any(x.ndim == 4 and x.dtype.kind == "f" for x in seeded_inputs(model).values())


def kinds(model: Model, among: Iterable[str] = KINDS) -> tuple[str, ...]:
    """The kinds of noise that a model can be given: of images, or white."""
    return tuple(among) if has_images(model) else ("white",)


def synthetic(model: Model, kind: str, count: int, seed: int, spread: tuple[float, float]) -> dict[str, np.ndarray]:
    """``count`` made-up inputs, one after another on the first axis.

    Images are of a kind of noise, other floating-point inputs white; the rest is as for proofs. Floating-point values
    are within ``spread``, half of which is two standard deviations. Models that read tokens are given some of their
    vocabulary.
    """
    if (read := reader(model)) is not None:
        return inputs_for(model, read, drawn(read, count * model.input_shapes[read.ids][0], seed))
    low, high = spread
    rng = np.random.default_rng([seed, *kind.encode()])
    parts: dict[str, list[np.ndarray]] = {}
    for k in range(count):
        for name, template in seeded_inputs(model, seed + k).items():
            if template.dtype.kind == "f":
                image = template.ndim == 4
                noise = KINDS[kind](template.shape, rng) if image else rng.standard_normal(template.shape)
                values = np.clip((low + high) / 2 + (high - low) / 4 * noise, low, high)
                template = np.asarray(values, template.dtype)
            parts.setdefault(name, []).append(template)
    return {name: np.concatenate(p) if p[0].ndim else p[0] for name, p in parts.items()}


def assorted(model: Model, count: int, seed: int, spread: tuple[float, float]) -> dict[str, np.ndarray]:
    """At least ``count`` made-up inputs, as many of each kind of noise, or text of its own if the model writes some."""
    if (read := reader(model)) is not None and is_open(opened := batched(model)):
        return sequences(opened, writer(opened, read), count * model.input_shapes[read.ids][0], seed)
    known = kinds(model)
    made = [synthetic(model, kind, -(-count // len(known)), seed, spread) for kind in known]
    return {name: np.concatenate([m[name] for m in made]) if x.ndim else x for name, x in made[0].items()}


def split(model: Model, inputs: Inputs, together: int) -> list[Inputs]:
    """Inputs in parts, for a run each: ``together`` of them where ``model``, as ``batched`` makes it, takes several."""
    sizes = {name: shape[0] for name, shape in model.input_shapes.items() if shape}
    runs = min((len(inputs[name]) // size for name, size in sizes.items() if size), default=1)
    step = together if is_open(model) else 1
    parts: list[Inputs] = []
    for start in range(0, runs, step):
        some = {n: inputs[n][start * size : min(start + step, runs) * size] for n, size in sizes.items()}
        parts.append({**{n: inputs[n] for n in model.inputs}, **some})
    return parts


def run(model: Model, wanted: Sequence[str], inputs: Inputs, keep: bool = True) -> Iterator[dict[str, np.ndarray]]:
    """Values of the inputs and of ``wanted`` tensors, a few inputs at a time; ``model`` is as ``batched`` makes it.

    ``keep`` says whether memory may be spent on speed, as of ``Runner``.
    """
    _complete(inputs, model, "the real inputs")
    if not (parts := chunks(model, inputs, wanted)):
        raise UsageError("the calibration data have no items, or fewer than the model takes at a time", "give more")
    header = ModelProto()
    header.CopyFrom(model.header)
    outputs = {info.name: info for info in header.graph.output}
    del header.graph.output[:]  # what nobody asks for need not be computed
    asked = dict.fromkeys(name for name in wanted if name not in model.inputs)
    header.graph.output.extend(outputs.get(name, ValueInfoProto(name=name)) for name in asked)
    runner = Runner(replace(model, header=header), optimise=True, keep=keep)
    for chunk in track(parts):
        yield {**chunk, **runner(chunk)}


def chunks(model: Model, inputs: Inputs, wanted: Sequence[str] = ()) -> list[Inputs]:
    """Inputs in parts that a model takes at a time, few enough for their activations, and the ``wanted`` ones kept."""
    # How much of the first axis of each input makes one run; scalars are given whole.
    sizes = {name: shape[0] for name, shape in model.input_shapes.items() if shape and name in model.inputs}
    runs = min((len(inputs[name]) // size for name, size in sizes.items() if size), default=1)
    step = 1
    if is_open(model):
        kept = sum(_bytes(model.shapes.get(name, ())) for name in wanted)
        largest = max(map(_bytes, model.shapes.values()), default=1)  # a few of which are held at any time
        step = max(1, min(runs, MEMORY // max(kept, 6 * largest, 1)))
    whole = {name: inputs[name] for name in model.inputs if name not in sizes}
    return [
        {name: inputs[name][start * size : min(start + step, runs) * size] for name, size in sizes.items()} | whole
        for start in range(0, runs, step)
    ]


def positions(values: np.ndarray) -> np.ndarray:
    """About ``POSITIONS`` positions of a tensor: float64 [positions, channels].

    Channels are on axis 1 of images, else on the last.
    """
    if values.ndim < 4:
        flat = values.reshape(-1, values.shape[-1])
        return np.asarray(flat[:: max(1, len(flat) // POSITIONS)], np.float64)
    channels = values.shape[1]
    images = values.reshape(len(values), channels, -1)
    step = max(1, images.size // channels // POSITIONS)
    return np.asarray(images[:, :, ::step].swapaxes(1, 2), np.float64).reshape(-1, channels)


def _bytes(shape: Sequence[int | None]) -> int:
    return 4 * prod(n or 1 for n in shape)
