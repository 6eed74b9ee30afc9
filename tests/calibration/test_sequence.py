"""Refitting in sequence: later layers make up for what earlier ones came to do wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.errors import UsageError
from graphprune.model import Model, load
from graphprune.pipeline import parse
from graphprune.proof import Runner
from graphprune.state import State
from passes.reconstruct import Reconstruct
from tests.law import net

BODY = """
    a = Gemm(x, a1, a0) b = Relu(a) c = MatMul(b, a2) r = Add(x, c)
    d = MatMul(r, b1) e = Relu(d) f = MatMul(e, b2) g = Add(f, b0) s = Add(g, r)
    h = MatMul(s, c1) i = Relu(h) j = MatMul(i, c2) y = Add(j, s)
"""
WIDE = {"a1": (6, 24), "a0": (24,), "b1": (6, 24), "b0": (6,), "c1": (6, 24)}


def state(items: int = 400) -> State:
    """Three residual blocks that lose half of their neurons, calibrated on real inputs."""
    narrow = {name: (24, 6) for name in ("a2", "b2", "c2")}
    model = load(net(BODY, inputs="float[N,6] x", **WIDE, **narrow), dim_params={"N": 1})
    inputs = {"x": np.random.default_rng(1).standard_normal((items, 6)).astype(np.float32)}
    found = State(model, data={"inputs": inputs})
    for step in parse("calibrate(count=8), magnitude, uniform(ratio=0.5, multiple=1), cut"):
        found = step.run(found)
    return found


def error(before: Model, after: Model, inputs: dict[str, np.ndarray]) -> float:
    wanted, got = (Runner(replace(m, input_shapes={"x": (len(inputs["x"]), 6)}))(inputs)["y"] for m in (before, after))
    return float(np.square(wanted - got).sum() / np.square(wanted).sum())


def test_later_layers_make_up_for_earlier_ones() -> None:
    cut = state()
    dense, unseen = cut.data["uncut"], {"x": np.random.default_rng(2).standard_normal((400, 6)).astype(np.float32)}
    alone, sequence = Reconstruct()(cut).model, Reconstruct(sequence=0.01)(cut).model
    for inputs in (cut.data["inputs"], unseen):
        assert error(dense, sequence, inputs) < 0.9 * error(dense, alone, inputs) < error(dense, cut.model, inputs)


def test_much_damping_leaves_all_but_the_biases_as_the_first_fit_found_them() -> None:
    cut = state()
    first, second = (Reconstruct(sequence=s)(cut).model.constants for s in (0, 1e9))
    for name in WIDE.keys() - {"a0", "b0"} | {"a2", "b2", "c2"}:
        np.testing.assert_allclose(second[name].values, first[name].values, rtol=1e-4, atol=1e-5)


def test_it_needs_calibrated_layers_and_a_cut() -> None:
    with pytest.raises(UsageError, match="reconstruct needs calibrated layers"):
        Reconstruct(sequence=0.1)(State(state().model))
    made_up = replace(cut := state(), data={n: v for n, v in cut.data.items() if n != "inputs"})
    with pytest.raises(UsageError, match="reconstruct in sequence needs text or real inputs"):
        Reconstruct(sequence=0.1)(made_up)
    assert Reconstruct()(made_up) is not made_up
    uncut = replace(cut, data={n: v for n, v in cut.data.items() if n != "cut"})
    assert Reconstruct(sequence=0.1)(uncut) is uncut
