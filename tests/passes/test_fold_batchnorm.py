"""BatchNormalization disappears into the linear operator before it, wherever that is exact."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from graphprune.model import load
from graphprune.proof import REWRITE_RTOL, Runner, compare, seeded_inputs
from graphprune.state import State
from passes.fold_batchnorm import FoldBatchnorm
from tests.law import net

NORM = {"s": (6,), "o": (6,), "m": (6,), "v": np.linspace(0.5, 2, 6, dtype=np.float32)}


def folded(proto: ModelProto) -> State:
    before = load(proto)
    state = FoldBatchnorm()(State(before))
    inputs = seeded_inputs(before)
    agreement = compare(Runner(state.model)(inputs), Runner(before)(inputs), REWRITE_RTOL["float32"])
    assert agreement.holds, agreement
    assert not agreement.silent
    return state


@pytest.mark.parametrize(
    ("linear", "weights", "left"),
    [
        ("t = Conv(x, a, c)", {"a": (6, 3, 3, 3), "c": (6,)}, ["Conv", "Relu"]),
        ("t = Conv(x, a)", {"a": (6, 3, 3, 3)}, ["Conv", "Relu"]),
        ("t = Conv<group=3>(x, a)", {"a": (6, 1, 3, 3)}, ["Conv", "Relu"]),
        ("t = ConvTranspose(x, a, c)", {"a": (3, 6, 2, 2), "c": (6,)}, ["ConvTranspose", "Relu"]),
        ("t = ConvTranspose<group=3>(x, a)", {"a": (3, 2, 2, 2)}, ["ConvTranspose", "BatchNormalization", "Relu"]),
        ("f = Flatten(x)\nt = Gemm(f, a, c)", {"a": (192, 6), "c": (6,)}, ["Flatten", "Gemm", "Relu"]),
        ("f = Flatten(x)\nt = Gemm<transB=1>(f, a)", {"a": (6, 192)}, ["Flatten", "Gemm", "Relu"]),
        ("f = Flatten(x)\nt = Gemm(f, a, c)", {"a": (192, 6), "c": (1, 6)}, ["Flatten", "Gemm", "Relu"]),
        (
            "f = Flatten(x)\nt = Gemm<alpha=0.5>(f, a)",
            {"a": (192, 6)},
            ["Flatten", "Gemm", "BatchNormalization", "Relu"],
        ),
        ("t = Conv(x, a)\nr = Relu(t)", {"a": (6, 3, 1, 1)}, ["Conv", "Relu", "BatchNormalization", "Relu"]),
    ],
)  # fmt: skip
def test_folds_exactly_where_it_can(linear: str, weights: dict[str, tuple[int, ...]], left: list[str]) -> None:
    state = folded(
        net(f"{linear}\nn = BatchNormalization<epsilon=0.01>(t, s, o, m, v)\ny = Relu(n)", **{**NORM, **weights})
    )
    assert [n.op for n in state.model.graph.nodes] == left


def test_statistics_are_kept() -> None:
    known = {**NORM, "v": np.array([4, 2, 1, 0.5, 1e-8, 0], np.float32)}
    text = "t = Conv(x, a)\ny = BatchNormalization<epsilon=0.01>(t, s, o, m, v)"
    state = folded(net(text, a=(6, 3, 1, 1), **known))
    original = load(net(text, a=(6, 3, 1, 1), **known)).constants
    found = state.data["batchnorm"]["y"]
    assert np.allclose(found["mean"], original["o"].values)
    varied = [4 / 4.01, 2 / 2.01, 1 / 1.01, 0.5 / 0.51, 1e-8 / 0.01, 0]  # channels that are dead have no spread
    assert np.allclose(found["std"], np.abs(original["s"].values) * np.sqrt(varied), atol=1e-9)


def test_weights_with_two_readers_are_copied() -> None:
    body = "t = Conv(x, a, c)\nn = BatchNormalization(t, s, o, m, v)\nu = Conv(x, a, c)\ny = Add(n, u)"
    state = folded(net(body, a=(6, 3, 1, 1), c=(6,), **NORM))
    assert [n.op for n in state.model.graph.nodes] == ["Conv", "Conv", "Add"]


def test_two_normalisations_after_convolutions_that_share_weights() -> None:
    body = (
        "t = Conv(x, a)\nn = BatchNormalization(t, s, o, m, v)\n"
        "u = Conv(x, a)\nq = BatchNormalization(u, o, s, m, v)\ny = Mul(n, q)"
    )
    state = folded(net(body, a=(6, 3, 1, 1), **NORM))
    assert [n.op for n in state.model.graph.nodes] == ["Conv", "Conv", "Mul"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("t = Conv(x, a)\nn = BatchNormalization(t, s, o, m, v)\ny = Add(n, t)", "y"),
        ("t = Conv(x, a)\ny = BatchNormalization(t, s, o, m, v)", "y t"),
    ],
    ids=["read elsewhere", "an output"],
)
def test_a_value_that_is_seen_elsewhere_stays(body: str, outputs: str) -> None:
    state = State(load(net(body, outputs=outputs, a=(6, 3, 1, 1), **NORM)))
    assert FoldBatchnorm()(state) is state


def test_chain_of_two() -> None:
    body = "t = Conv(x, a)\nn = BatchNormalization(t, s, o, m, v)\ny = BatchNormalization(n, o, s, m, v)"
    state = folded(net(body, a=(6, 3, 1, 1), **NORM))
    assert [n.op for n in state.model.graph.nodes] == ["Conv"]
