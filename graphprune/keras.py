"""Apply a plan to a Keras model: ``small = graphprune.keras.apply(model, plan, original="model.onnx")``.

Variables of Keras cannot change shape, so the result is a new model: the layers of the old one with smaller sizes in
their configurations, and what the plan leaves of their weights. It can be trained as any other, and computes what the
plainly pruned ONNX file computes. Needs Keras 3 with any backend.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from graphprune.errors import UsageError
from graphprune.plan import Plan, transfer

TOLERANCE = 1e-4  # of the largest output, in float32
Shape = tuple[int, ...]
Left = dict[int, dict[int, np.ndarray]]
"""Identity of a variable → axis → the positions that stay."""
_FUNCTIONS = ("activation", "recurrent_activation")
_NORMS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_GROUPED = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)


def apply(model: keras.Model, plan: Plan | str | os.PathLike[str], *, original: transfer.Source) -> keras.Model:
    """A smaller model, by a plan that was made for the export of ``model``.

    Args:
        model: functional or sequential, as exported; it keeps its weights, and shares layers without any.
        plan: or the path of one.
        original: the exported ONNX file, where weights are recognised by their values.

    Returns:
        A model with the same layers by the same names; not compiled for training.

    Raises:
        UsageError: the plan does not fit, or a layer cannot take the sizes that it asks for.
    """
    plan = transfer.planned(plan)
    stored = [part for layer in _leaves(model) for part in _stored(layer)]
    arrays = {part.name: part.laid_out() for part in stored}
    transposed = [part.name for part in stored if part.transposed]
    kept = transfer.match(plan, arrays, transfer.exported(original, plan), transposed)
    left: Left = {}
    for part in stored:
        for axis, positions in kept.get(part.name, {}).items():
            left.setdefault(id(part.variable), {}).update(part.kept(axis, positions))
    small = _rebuilt(model, left)
    pairs = zip(model.weights, model.get_weights(), strict=True)
    values = [transfer.sliced(value, left.get(id(variable), {})) for variable, value in pairs]
    for old, new, value in zip(model.weights, small.weights, values, strict=True):
        if tuple(new.shape) != value.shape:
            raise UsageError(
                f"{old.path}: the plan leaves {list(value.shape)} of it, and the rebuilt layer has {list(new.shape)}",
                "leave the layer out with --exclude",
            )
    small.set_weights(values)
    _prove(model, small, left)
    return small


# ------------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class _Part:
    """A variable, or one row of it, as PyTorch lays it out and names it, which is how plans recognise layers.

    Attributes:
        name: of the array.
        variable: of Keras.
        order: which axes of the variable each axis of the array is made of, outermost first.
        row: which position of the variable's first axis, where each is an array of its own.
        transposed: whether the outputs are the array's second axis.
    """

    name: str
    variable: Any
    order: tuple[tuple[int, ...], ...]
    row: int | None = None
    transposed: bool = False

    def laid_out(self) -> np.ndarray:
        array = np.asarray(ops.convert_to_numpy(self.variable))
        array = array if self.row is None else array[self.row]
        shape = [prod(array.shape[axis] for axis in axes) for axes in self.order]
        return array.transpose([axis for axes in self.order for axis in axes]).reshape(shape)

    def kept(self, axis: int, positions: np.ndarray) -> dict[int, np.ndarray]:
        """What stays on axes of the variable, where an axis of the array keeps ``positions``."""
        axes, skipped = self.order[axis], int(self.row is not None)
        shape = [self.variable.shape[a + skipped] for a in axes]
        each = [np.unique(index) for index in np.unravel_index(positions, shape)]
        if prod(len(e) for e in each) != len(positions):
            raise UsageError(
                f"{self.variable.path}: its heads would differ in width", "take whole heads, or the same from each"
            )
        return {a + skipped: e for a, e, size in zip(axes, each, shape, strict=True) if len(e) < size}


def _leaves(layer: Any) -> Iterator[Any]:
    """The layers that hold weights themselves, in the order of the model's weights."""
    inner = list(layer._flatten_layers(include_self=False, recursive=False))
    if not inner:
        yield layer
    for child in inner:
        yield from _leaves(child)


def _stored(layer: Any) -> list[_Part]:
    """The weights of one layer."""
    found = []
    for variable in layer.weights:
        prefix, _, last = variable.path.rpartition("/")
        found += _parts(layer, f"{prefix}.", last, variable)
    return found


def _parts(layer: Any, prefix: str, last: str, variable: Any) -> list[_Part]:
    rank = len(variable.shape)
    window = tuple((axis,) for axis in range(rank - 2))
    second, first = (rank - 2,), (rank - 1,)
    if isinstance(layer, _CELLS):
        if last == "bias":
            rows = range(variable.shape[0]) if rank == 2 else [None]
            names = ("bias_ih_l0", "bias_hh_l0")
            return [_Part(prefix + n, variable, ((0,),), row) for n, row in zip(names, rows, strict=False)]
        name = {"kernel": "weight_ih_l0", "recurrent_kernel": "weight_hh_l0"}[last]
        return [_Part(prefix + name, variable, ((1,), (0,)))]
    if isinstance(layer, layers.EinsumDense) and last in ("kernel", "bias"):
        return _projection(layer, prefix, last, variable)
    if last in _NORMS:
        return [_Part(prefix + _NORMS[last], variable, tuple((axis,) for axis in range(rank)))]
    if isinstance(layer, _DEPTHWISE) and last == "kernel":
        return [_Part(f"{prefix}weight", variable, (second + first, (), *window))]
    if isinstance(layer, _SEPARABLE):
        part, _, last = last.rpartition("_")
        if part == "depthwise":
            return [_Part(f"{prefix}depthwise.weight", variable, (second + first, (), *window))]
        prefix += "pointwise."
    if last == "kernel":
        transposed = isinstance(layer, _TRANSPOSED)
        return [_Part(f"{prefix}weight", variable, (first, second, *window), None, transposed)]
    name = {"embeddings": "weight"}.get(last, last)
    return [_Part(prefix + name, variable, tuple((axis,) for axis in range(rank)))]


def _projection(layer: Any, prefix: str, last: str, variable: Any) -> list[_Part]:
    """A kernel of several axes of inputs and outputs, as the matrix [outputs, inputs] that exporters make of it."""
    inputs, kernel = layer.equation.split("->")[0].split(",")
    if last == "bias":
        return [_Part(f"{prefix}bias", variable, (tuple(range(len(variable.shape))),))]
    into = tuple(kernel.index(label) for label in kernel if label in inputs)
    out = tuple(kernel.index(label) for label in kernel if label not in inputs)
    return [_Part(f"{prefix}weight", variable, (out, into))]


# -------------------------------------------------------------------------------------------------------------- layers


def _rebuilt(model: keras.Model, left: Left) -> keras.Model:
    """The model with layers of the sizes that are left; its weights are still to be set."""

    def smaller(layer: Any) -> Any:
        if not layer.weights:
            return layer
        try:
            kind, config = _made(layer, left)
            return kind.from_config(config)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{layer.name} cannot be made smaller: {_said(error)}", "leave it out with --exclude"
            ) from error

    try:
        return keras.models.clone_model(model, clone_function=smaller, recursive=True)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{model.name} cannot be made again with smaller layers: {_said(error)}",
            "it has to be functional or sequential; --exclude leaves layers out",
        ) from error


def _said(error: Exception) -> str:
    """What is wrong, of all that Keras writes."""
    lines = [line for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception encountered")), type(error).__name__)


def _made(layer: Any, left: Left) -> tuple[Any, dict[str, Any]]:
    """Class and configuration of what takes a layer's place."""
    # A function of the user's goes by its name only, which might be that of another one of Keras.
    config = {**layer.get_config(), **{f: getattr(layer, f) for f in _FUNCTIONS if hasattr(layer, f)}}

    def shape(variable: Any) -> Shape:
        axes = left.get(id(variable), {})
        return tuple(len(axes[k]) if k in axes else size for k, size in enumerate(variable.shape))

    def groups(count: int, variable: Any, axis: int) -> int:
        positions = left.get(id(variable), {}).get(axis)
        return transfer.groups_left(count, variable.shape[axis], positions, layer.name)

    if isinstance(layer, _DEPTHWISE):
        pass  # as many as it is given
    elif isinstance(layer, _GROUPED):
        config["filters"] = shape(layer.kernel)[-1]
        config["groups"] = groups(layer.groups, layer.kernel, -1 % len(layer.kernel.shape))
    elif isinstance(layer, _TRANSPOSED):
        config["filters"] = shape(layer.kernel)[-2]
    elif isinstance(layer, _SEPARABLE):
        config["filters"] = shape(layer.pointwise_kernel)[-1]
    elif isinstance(layer, layers.Dense):
        config["units"] = shape(layer.kernel)[-1]
    elif isinstance(layer, layers.Embedding):
        config["input_dim"], config["output_dim"] = shape(layer.embeddings)
    elif isinstance(layer, layers.RNN) and isinstance(layer.cell, _CELLS):
        config["units"] = shape(layer.cell.recurrent_kernel)[0]
    elif isinstance(layer, layers.Bidirectional):
        for key, inner in (("layer", layer.forward_layer), ("backward_layer", layer.backward_layer)):
            if key in config:
                config[key] = _inner(config[key], inner, left)
    elif isinstance(layer, layers.TimeDistributed):
        config["layer"] = _inner(config["layer"], layer.layer, left)
    elif isinstance(layer, layers.MultiHeadAttention):
        return _attention(layer, config, shape)
    elif isinstance(layer, layers.GroupNormalization) and layer.gamma is not None:
        config["groups"] = groups(layer.groups, layer.gamma, 0)
    elif isinstance(layer, layers.LayerNormalization) and layer.gamma is not None and left.get(id(layer.gamma)):
        config["width"] = layer.width if isinstance(layer, LayerNormalization) else layer.gamma.shape[0]
        return LayerNormalization, config
    return type(layer), config


def _inner(config: dict[str, Any], layer: Any, left: Left) -> dict[str, Any]:
    """The configuration of a layer inside another one, not yet built for any shape."""
    return {**{k: v for k, v in config.items() if k != "build_config"}, "config": _made(layer, left)[1]}


def _attention(layer: Any, config: dict[str, Any], shape: Any) -> tuple[Any, dict[str, Any]]:
    heads, key = shape(layer.query_dense.kernel)[1:]
    config |= {"num_heads": heads, "key_dim": key, "value_dim": shape(layer.value_dense.kernel)[2]}
    config["output_shape"] = shape(layer.output_dense.kernel)[2:]
    if key == layer.key_dim:
        return type(layer), config
    return MultiHeadAttention, {**config, "scaled_by": getattr(layer, "scaled_by", layer.key_dim)}


@keras.saving.register_keras_serializable("graphprune")
class LayerNormalization(layers.LayerNormalization):
    """A LayerNormalization for which positions that are gone are zeros, and count in mean and variance.

    Args:
        width: how many positions there were on the last axis.
    """

    def __init__(self, *, width: int, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def call(self, inputs: Any) -> Any:
        """As the layer it is made of."""
        mean = ops.sum(inputs, -1, keepdims=True) / self.width
        apart = inputs - mean
        gone = self.width - inputs.shape[-1]
        variance = (ops.sum(ops.square(apart), -1, keepdims=True) + gone * ops.square(mean)) / self.width
        normal = apart * ops.rsqrt(variance + self.epsilon) * self.gamma
        return normal if self.beta is None else normal + self.beta

    def get_config(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("graphprune")
class MultiHeadAttention(layers.MultiHeadAttention):
    """Attention whose heads lost positions, and whose scores are divided as before.

    Args:
        scaled_by: how wide the heads were that were trained.
    """

    def __init__(self, *args: Any, scaled_by: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scaled_by = scaled_by
        self._inverse_sqrt_key_dim = 1 / scaled_by**0.5

    def get_config(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {**super().get_config(), "scaled_by": self.scaled_by}


# --------------------------------------------------------------------------------------------------------------- proof


def _prove(model: keras.Model, small: keras.Model, left: Left) -> None:
    """The law: cutting equals zeroing, also where sizes that no weight shows went along with the cut."""
    values = model.get_weights()
    silent = [value.copy() for value in values]
    for variable, value in zip(model.weights, silent, strict=True):
        for axis, positions in left.get(id(variable), {}).items():
            value[(slice(None),) * axis + (np.setdiff1d(np.arange(value.shape[axis]), positions),)] = 0
    rng = np.random.default_rng(0)
    given = [
        rng.standard_normal(s).astype(i.dtype) if "float" in i.dtype else rng.integers(0, 2, s).astype(i.dtype)
        for i in model.inputs
        for s in [tuple(size or 2 for size in i.shape)]
    ]
    try:
        model.set_weights(silent)
        wanted = _outputs(model, given)
    finally:
        model.set_weights(values)
    for expected, got in zip(wanted, _outputs(small, given), strict=True):
        if expected.shape != got.shape or np.abs(expected - got).max() > TOLERANCE * np.abs(expected).max():
            raise UsageError(
                "the rebuilt model does not compute what the plan leaves: a layer depends on a width that it does not "
                "say in its weights (Reshape, Lambda…)",
                "leave that width out with --exclude",
            )


def _outputs(model: keras.Model, given: list[np.ndarray]) -> list[np.ndarray]:
    outputs = keras.tree.flatten(model(given if len(given) > 1 else given[0], training=False))
    return [np.asarray(ops.convert_to_numpy(x), np.float64) for x in outputs]
