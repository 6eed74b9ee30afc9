"""Normalisations: per-channel ones own parameters; those that mix an axis pin it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import (
    Call,
    Kept,
    Pin,
    Routing,
    Rule,
    Ties,
    alone,
    first,
    normal_axis,
    reduction,
    scaled,
    some,
    tie,
    tie_all,
)
from graphprune.rules.spelled import Spelled


def _batch_norm_ties(call: Call) -> Ties:
    """Ioffe & Szegedy 2015: a channel owns its scale, bias, mean and variance."""
    yield from tie_all(call.x, call.y)
    for parameter in call.inputs[1:]:
        if parameter is not None:
            yield tie(parameter, 0, call.y, 1)
    for running in call.outputs[1:]:  # written in training mode only
        if running is not None:
            yield tie(running, 0, call.y, 1)


def _instance_norm_ties(call: Call) -> Ties:
    """Ulyanov et al. 2016: statistics are taken over the spatial axes, which therefore stay."""
    yield tie(call.x, 0, call.y, 0)
    yield tie(call.x, 1, call.y, 1)
    for parameter in call.inputs[1:]:
        if parameter is not None:
            yield tie(parameter, 0, call.y, 1)


def _lrn_ties(call: Call) -> Ties:
    """Krizhevsky et al. 2012: a channel is divided by its neighbours, and cutting one would change who they are."""
    for axis in range(call.x.rank):
        if axis == 1:
            yield Pin(call.x.dim(1), "normalised by its neighbouring channels")
            yield Pin(call.y.dim(1), "normalised by its neighbouring channels")
        else:
            yield tie(call.x, axis, call.y, axis)


def _along_axis_ties(call: Call) -> Ties:
    """Softmax and its kin normalise over one axis; before opset 13 over all axes from it on."""
    for axis in range(call.x.rank):
        if axis in _shared_axes(call):
            yield Pin(call.x.dim(axis), "normalised over")
            yield Pin(call.y.dim(axis), "normalised over")
        else:
            yield tie(call.x, axis, call.y, axis)


def _shared_axes(call: Call) -> range:
    old = call.opset < 13
    at = normal_axis(call.attrs.get("axis", 1 if old else -1), call.x.rank)
    return range(at, call.x.rank if old else at + 1)


def _softmax_ties(call: Call) -> Ties:
    """What goes gets no share, and what is left shares out all there is."""
    if _softmax_routing(call) is None:
        yield from _along_axis_ties(call)
    else:
        yield from tie_all(call.x, call.y)


def _softmax_routing(call: Call) -> Routing | None:
    axes = _shared_axes(call)
    return Routing(0, axes[0]) if len(axes) == 1 else None


def _group_norm_ties(call: Call) -> Ties:
    """Wu & He 2018: statistics are taken over a group of channels, which goes as a whole."""
    x, y, groups = call.x, call.y, int(call.attrs["num_groups"])
    group = np.arange(x.shape[1]) * groups // x.shape[1]
    yield tie(x, 0, y, 0)
    yield tie(x, 1, y, 1)
    yield tie(x, 1, y, 1, at_b=group * (x.shape[1] // groups))
    for parameter in call.inputs[1:]:
        assert parameter is not None
        yield tie(parameter, 0, y, 1)


def _group_norm_repair(node: gs.Node, call: Call, kept: Kept) -> None:
    groups = int(call.attrs["num_groups"])
    node.attrs["num_groups"] = len(kept(call.x, 1)) * groups // call.x.shape[1]


def _lp_norm_ties(call: Call) -> Ties:
    """A norm does not miss zeros."""
    yield from tie_all(call.x, call.y)
    yield reduction(call.x, normal_axis(call.attrs.get("axis", -1), call.x.rank))


def _layer_norm_ties(call: Call) -> Ties:
    """Ba et al. 2016: all axes from one on are normalised together; their statistics can count the zeros that went."""
    yield from _normalised_ties(call)
    exact = not any(call.outputs[1:]) and _type(call) in (np.float32, np.float64)
    for axis in _normalised(call):
        yield reduction(call.x, axis) if exact else Pin(call.x.dim(axis), "normalised over", inexact=True)


def _type(call: Call) -> np.dtype | None:
    """Of the numbers; where onnx cannot tell x's, that of the scale."""
    scale = call.inputs[1]
    assert scale is not None
    return call.x.dtype or (None if scale.constant is None else scale.constant.dtype)


def _normalised(call: Call) -> range:
    return range(normal_axis(call.attrs.get("axis", -1), call.x.rank), call.x.rank)


def _layer_norm_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """With n of N left, the mean is Σx/N, and the N - n zeros are off it by as much as it is: spelled out."""
    axes = list(_normalised(call))
    whole, left = prod(call.x.shape[a] for a in axes), prod(len(kept(call.x, a)) for a in axes)
    if left == whole or any(call.outputs[1:]):
        return
    dtype = _type(call)
    assert dtype is not None
    spelled = Spelled(f"{node.outputs[0].name}:norm", dtype)
    (x, *affine), y = list(node.inputs), node.outputs[0]
    epsilon = call.attrs.get("epsilon", 1e-5)
    spelled.layer_norm(x, [p for p in affine if p.name], axes, whole, left, epsilon, y)
    yield from spelled.into(node)


def _rms_norm_ties(call: Call) -> Ties:
    """Zhang & Sennrich 2019: the mean square of what is left differs by a factor, which the scale can take."""
    yield from _normalised_ties(call)
    scale = call.input(1)
    for axis in _normalised(call):
        if scale is not None and scale.constant is not None:
            yield reduction(call.x, axis)
        else:
            yield Pin(call.x.dim(axis), "normalised over, with a computed scale", inexact=True)


def _normalised_ties(call: Call) -> Ties:
    """Scale and bias are broadcast to x; the statistics have size 1 on the axes normalised over."""
    for y in call.outputs:
        if y is not None:
            yield from tie_all(call.x, y)
    for parameter in call.inputs[1:]:
        if parameter is not None:
            for back in range(1, parameter.rank + 1):
                if parameter.shape[-back] == call.y.shape[-back]:
                    yield tie(parameter, parameter.rank - back, call.y, call.y.rank - back)


def _rms_norm_repair(node: gs.Node, call: Call, kept: Kept) -> Iterable[gs.Node]:
    """With n of N left, Σx²/n + ε' is N/n times Σx²/N + ε for ε' = ε N/n."""
    axes = _normalised(call)
    return scale_for_fewer(
        node, call, 1, prod(len(kept(call.x, a)) for a in axes) / prod(call.x.shape[a] for a in axes)
    )


def scale_for_fewer(node: gs.Node, call: Call, index: int, share: float) -> Iterable[gs.Node]:
    """Let ``epsilon`` and the scale at input ``index`` make up for the share that is left of what is averaged over."""
    if share == 1:
        return ()
    node.attrs["epsilon"] = call.attrs.get("epsilon", 1e-5) / share
    scale = node.inputs[index]
    if len(scale.outputs) > 1:
        return scaled(node, call, share**-0.5, scale.dtype)
    scale.values = np.asarray(scale.values) * scale.dtype.type(share**-0.5)
    return ()


def _batch_norm_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where scale and bias are."""
    return zero[1] & zero[2]


def _instance_norm_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where the bias is, and the scale or x."""
    return (zero[0] | zero[1]) & zero[2]


def _layer_norm_silence(call: Call, zero: Sequence[np.ndarray]) -> np.ndarray:
    """Where scale and bias are, on the axes they have."""
    return zero[1] if call.input(2) is None else zero[1] & zero[2]


RULES = {
    "BatchNormalization": Rule(_batch_norm_ties, neutral={4: 1.0}, silence=alone(_batch_norm_silence)),
    "GroupNormalization": Rule(_group_norm_ties, _group_norm_repair),
    "InstanceNormalization": Rule(_instance_norm_ties, silence=_instance_norm_silence),
    "LRN": Rule(_lrn_ties, silence=first),
    **dict.fromkeys(["LogSoftmax", "Hardmax"], Rule(_along_axis_ties)),
    "Softmax": Rule(_softmax_ties, routes=_softmax_routing),
    "LayerNormalization": Rule(_layer_norm_ties, _layer_norm_repair, silence=alone(_layer_norm_silence)),
    "LpNormalization": Rule(_lp_norm_ties, silence=first),
    **dict.fromkeys(
        ["RMSNormalization", "SimplifiedLayerNormalization"],
        Rule(_rms_norm_ties, _rms_norm_repair, silence=alone(some)),
    ),
}
