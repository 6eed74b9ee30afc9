"""Operators on images: what they sample, or move between channels and pixels."""

from __future__ import annotations

import numpy as np

from graphprune.rules.base import Call, Operand, Rule, Ties, tie


def _blocks(wide: Operand, narrow: Operand, channels_first: bool) -> Ties:
    """The channel of ``narrow`` owns a block of channels of ``wide``: side by side, or spread over the whole axis."""
    channels = np.arange(wide.shape[1])
    block = wide.shape[1] // narrow.shape[1]
    yield tie(wide, 0, narrow, 0)
    yield tie(wide, 1, narrow, 1, channels, channels // block if channels_first else channels % narrow.shape[1])


def _depth_to_space_ties(call: Call) -> Ties:
    """A block of pixels is made of channels: in CRD order side by side (Shi et al. 2016), in DCR order spread."""
    yield from _blocks(call.x, call.y, call.attrs.get("mode") == "CRD")


def _space_to_depth_ties(call: Call) -> Ties:
    yield from _blocks(call.y, call.x, call.attrs.get("mode") == "CRD")


def _col2im_ties(call: Call) -> Ties:
    yield from _blocks(call.x, call.y, True)


def _sampled_ties(call: Call) -> Ties:
    """Every channel is sampled at the same places, image by image."""
    grid = call.inputs[1]
    assert grid is not None
    yield tie(call.x, 0, call.y, 0)
    yield tie(grid, 0, call.y, 0)
    yield tie(call.x, 1, call.y, 1)


def _regions_ties(call: Call) -> Ties:
    """Every region samples all channels of its image; images and regions are counted apart."""
    yield tie(call.x, 1, call.y, 1)


RULES = {
    "Col2Im": Rule(_col2im_ties),
    "DepthToSpace": Rule(_depth_to_space_ties),
    "GridSample": Rule(_sampled_ties),
    **dict.fromkeys(["MaxRoiPool", "RoiAlign"], Rule(_regions_ties)),
    "SpaceToDepth": Rule(_space_to_depth_ties),
}
