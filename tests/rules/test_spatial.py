"""The law on tiny nets with operators that sample images, or move pixels into channels and back."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.rules import Dim
from tests.law import Case, between, case, check, net
from tests.rules.test_movement import ints

EIGHT = {"a": (8, 3, 1, 1), "c": (8,)}
BOXES = np.array([[0, 0, 4, 4], [1, 2, 6, 7], [2, 2, 5, 5]], np.float32)


def _grid(*sides: int) -> np.ndarray:
    """Places to look at, in the coordinates of GridSample: one row for every point of a grid."""
    values = np.random.default_rng(0).uniform(-1, 1, (1, *sides, len(sides)))
    return values.astype(np.float32)


CASES = [
    between(
        "DepthToSpace, spread channels",
        "u = DepthToSpace<blocksize=2>(t)",
        "2 a[0]*4 c[0]*4 b[1]",
        **EIGHT,
        b=(4, 2, 1, 1),
    ),
    between(
        "DepthToSpace, channels side by side: torch's PixelShuffle",
        'u = DepthToSpace<blocksize=2, mode="CRD">(t)',
        "3 a[0]*4 c[0]*4 b[1]",
        a=(12, 3, 1, 1),
        c=(12,),
        b=(4, 3, 1, 1),
    ),
    between(
        "DepthToSpace of a residual with the channels it makes",
        'p = DepthToSpace<blocksize=2, mode="CRD">(t)\nq = Conv(p, d)\nr = Resize(t, , k)\n'
        "s = Conv(r, e)\nu = Add(q, s)",
        "2 a[0]*4 c[0]*4 d[1] e[1]*4",
        "5 d[0] e[0] b[1]",
        k=np.array([1, 1, 2, 2], np.float32),
        **EIGHT,
        d=(5, 2, 1, 1),
        e=(5, 8, 1, 1),
        b=(4, 5, 1, 1),
    ),
    between("SpaceToDepth", "u = SpaceToDepth<blocksize=2>(t)", "6 a[0] c[0] b[1]*4", b=(4, 24, 1, 1)),
    between(
        "PixelShuffle as torch decomposes it",
        "v = Reshape(t, s)\nw0 = Transpose<perm=[0,1,4,2,5,3]>(v)\nu = Reshape(w0, r)",
        "2 a[0]*4 c[0]*4 b[1]",
        s=ints(1, 2, 2, 2, 8, 8),
        r=ints(1, 2, 16, 16),
        **EIGHT,
        b=(4, 2, 1, 1),
    ),
    between(
        "PixelUnshuffle as torch decomposes it",
        "v = Reshape(t, s)\nw0 = Transpose<perm=[0,1,3,5,2,4]>(v)\nu = Reshape(w0, r)",
        "6 a[0] c[0] b[1]*4",
        s=ints(1, 6, 4, 2, 4, 2),
        r=ints(1, 24, 4, 4),
        b=(4, 24, 1, 1),
    ),
    case(
        "Col2Im",
        "t = Conv(x, a)\nu = Col2Im(t, s, k)\ny = Conv(u, b)",
        "2 a[0]*4 b[1]",
        inputs="float[1,3,9] x",
        opset=18,
        a=(8, 3, 1),
        s=ints(4, 4),
        k=ints(2, 2),
        b=(4, 2, 1, 1),
    ),
    between("GridSample", "u = GridSample(t, g)", g=_grid(5, 4)),
    case(
        "GridSample of volumes, by a grid computed from another image",
        "t = Conv(x, a)\nh = Tanh(i)\nu = GridSample(t, h)\ny = Conv(u, b)",
        "6 a[0] b[1]",
        inputs="float[2,3,4,4,4] x, float[2,3,2,2,3] i",
        opset=20,
        a=(6, 3, 1, 1, 1),
        b=(4, 6, 1, 1, 1),
    ),
    between(
        "GridSample whose grid is made of channels: they stay",
        "p = Transpose<perm=[0,2,3,1]>(t)\nh = Tanh(p)\nu = GridSample(x, h)",
        a=(2, 3, 1, 1),
        c=(2,),
        b=(4, 3, 1, 1),
        pinned=True,
    ),
    between(
        "RoiAlign",
        "u = RoiAlign<output_height=2, output_width=3>(t, r, n)",
        inputs="float[2,3,8,8] x",
        r=BOXES,
        n=ints(0, 1, 1),
    ),
    between(
        "MaxRoiPool",
        "u = MaxRoiPool<pooled_shape=[2,2]>(t, r)",
        inputs="float[2,3,8,8] x",
        r=np.concatenate([np.array([[0], [1], [1]], np.float32), BOXES], axis=1),
    ),
    between(
        "GridSample, channels for a batch: each has a grid of its own",
        "p = Transpose<perm=[1,0,2,3]>(t)\nv = GridSample(p, g)\nu = Transpose<perm=[1,0,2,3]>(v)",
        "6 a[0] c[0] g[0] b[1]",
        g=(6, 4, 4, 2),
    ),
    between(
        "SpaceToDepth and back, channels for a batch: they pass through",
        "p = Transpose<perm=[1,0,2,3]>(t)\nq = SpaceToDepth<blocksize=2>(p)\nr = DepthToSpace<blocksize=2>(q)\n"
        "u = Transpose<perm=[1,0,2,3]>(r)",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law(case: Case) -> None:
    check(case)


def test_space_to_depth_with_channels_side_by_side() -> None:
    """In a newer opset than onnxruntime has, so that the law cannot be shown."""
    body = 't = Conv(x, a)\nu = SpaceToDepth<blocksize=2, mode="CRD">(t)\ny = Conv(u, b)'
    (group,) = analyse(load(net(body, opset=28, a=(6, 3, 1, 1), b=(4, 24, 1, 1)))).groups
    np.testing.assert_array_equal(group.positions(Dim("b", 1)), np.arange(24).reshape(6, 4))
