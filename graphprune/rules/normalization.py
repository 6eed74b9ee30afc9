"""Normalisations: per-channel ones own parameters; those that mix an axis pin it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import Call, Kept, Pin, Rule, Ties, normal_axis, tie, tie_all


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
    rank = call.x.rank
    old = call.opset < 13
    at = normal_axis(call.attrs.get("axis", 1 if old else -1), rank)
    for axis in range(rank):
        if axis == at or (old and axis > at):
            yield Pin(call.x.dim(axis), "normalised over")
            yield Pin(call.y.dim(axis), "normalised over")
        else:
            yield tie(call.x, axis, call.y, axis)


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


def _layer_norm_ties(call: Call) -> Ties:
    """Ba et al. 2016, and Zhang & Sennrich 2019 without the mean: all axes from one on are normalised together."""
    at = normal_axis(call.attrs.get("axis", -1), call.x.rank)
    for operand in (call.x, *(y for y in call.outputs if y is not None)):
        for axis in range(call.x.rank):
            if axis >= at:
                yield Pin(operand.dim(axis), "normalised over")
            elif operand is not call.x:
                yield tie(call.x, axis, operand, axis)


RULES = {
    "BatchNormalization": Rule(_batch_norm_ties, neutral={4: 1.0}),
    "GroupNormalization": Rule(_group_norm_ties, _group_norm_repair),
    "InstanceNormalization": Rule(_instance_norm_ties),
    "LRN": Rule(_lrn_ties),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], Rule(_along_axis_ties)),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], Rule(_layer_norm_ties)),
}
