"""Recurrent layers: a unit is a hidden neuron, with its rows of every gate and its column of what they read back."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphprune.rules.base import Call, Kept, Operand, Rule, Ties, reduction, tie

# Inputs by position, numbered alike for all three operators; P are the peepholes of an LSTM.
_X, _W, _R, _B, _LENGTHS, _INITIAL_H, _INITIAL_C, _P = range(8)


def _weight(call: Call, index: int) -> Operand:
    weight = call.input(index)
    assert weight is not None
    return weight


def _ties(call: Call) -> Ties:
    """Gates are stacked on one axis; both directions have one width, so a unit is one neuron of each.

    What a neuron computes leaves it through its column of R and through the outputs alone: its gates, peepholes and
    initial state matter to nobody once that column is gone (Hochreiter & Schmidhuber 1997; Cho et al. 2014).
    """
    recurrent = _weight(call, _R)
    yield tie(call.x, 2, _weight(call, _W), 2, summed=True)
    yield reduction(recurrent, 2)
    hidden = recurrent.shape[2]
    for index in (_W, _R, _B, _P):
        if (gates := call.input(index)) is not None:
            yield tie(gates, 1, recurrent, 2, at_b=np.arange(gates.shape[1]) % hidden)
    for state in (call.input(_INITIAL_H), call.input(_INITIAL_C), *call.outputs):
        if state is not None:
            yield tie(state, state.rank - 1, recurrent, 2)


def _repair(node: gs.Node, call: Call, kept: Kept) -> None:
    if "hidden_size" in node.attrs:
        node.attrs["hidden_size"] = len(kept(_weight(call, _R), 2))


def _macs(call: Call) -> int:
    """Every step multiplies its input and the state before it into all gates."""
    return prod(call.x.shape[:2]) * (prod(_weight(call, _W).shape) + prod(_weight(call, _R).shape))


RULES = dict.fromkeys(["GRU", "LSTM", "RNN"], Rule(_ties, _repair, _macs))
