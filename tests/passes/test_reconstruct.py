"""The joint solve against brute-force least squares, on every kind of layer; and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest

import graphprune
from graphprune.cost import CostModel
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.obs import fit
from graphprune.pipeline import parse, run
from graphprune.proof import Runner
from graphprune.state import State
from models import find
from models.zoo import onnxruntime_run
from passes.allocate import Allocate
from passes.reconstruct import Reconstruct
from tests.law import net

RESNET = find("fashion_resnet20")


def test_joint_solve_equals_brute_force_least_squares():
    rng = np.random.default_rng(0)
    x = np.c_[rng.standard_normal((500, 12)) @ rng.standard_normal((12, 12)) + 1, np.ones(500)]
    weights, kept = rng.standard_normal((5, 13)), np.array([0, 2, 3, 7, 8, 12])
    expected = np.linalg.lstsq(x[:, kept], x @ weights.T, rcond=None)[0].T
    assert fit(weights, x.T @ x / len(x), kept, 0.0) == pytest.approx(expected, rel=1e-7)


def test_damping_pulls_towards_the_old_weights():
    rng = np.random.default_rng(1)
    x = np.c_[rng.standard_normal((3, 8)), np.ones(3)]  # fewer samples than columns
    weights, kept = rng.standard_normal((2, 9)), np.arange(2, 9)
    fitted = fit(weights, x.T @ x / 3, kept, 1.0)
    assert np.isfinite(fitted).all()
    assert np.abs(fitted - weights[:, kept]).max() < 3


LAYERS = [
    ("y = Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(u, b, d)", {"b": (4, 6, 3, 2), "d": (4,)}),
    ("y = Conv(u, b)", {"b": (4, 6, 1, 1)}),
    ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(u, b)', {"b": (4, 6, 3, 3)}),
    ("y = Conv<group=2>(u, b)", {"b": (4, 3, 3, 3)}),
    ("y = ConvTranspose<strides=[2,2]>(u, b, d)", {"b": (6, 4, 2, 2), "d": (4,)}),
    ("v = Flatten(u)\ny = Gemm<transB=1>(v, b, d)", {"b": (4, 96), "d": (4,)}),
    ("v = Flatten(u)\ny = Gemm(v, b)", {"b": (96, 4)}),
    ("v = GlobalAveragePool(u)\nw = Flatten(v)\ny = MatMul(w, b)", {"b": (6, 4)}),
    ("v = GlobalAveragePool(u)\nw = Flatten(v)\nz = MatMul(w, b)\ny = Add(z, d)", {"b": (6, 4), "d": (4,)}),
]


@pytest.mark.parametrize(("body", "weights"), LAYERS, ids=[body.split("y = ")[-1] for body, _ in LAYERS])
def test_what_the_kept_inputs_can_make_is_made(body, weights):
    """Each channel of u has a twin, so half of them suffice: nothing but a right solve gives the old outputs back."""
    rng = np.random.default_rng(2)
    half = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    a = np.concatenate([half, 2 * half])
    model = load(
        net(
            f"t = Conv(x, a, e)\nu = Relu(t)\n{body}",
            inputs="float[1,2,6,6] x",
            a=a,
            e=np.tile([0.1, 0.2, 0.3], 2).astype(np.float32) * np.repeat([1, 2], 3).astype(np.float32),
            **weights,
        )
    )
    count = 70 if "Flatten(u)" in body else 24  # two samples for each of its 96 columns
    state, _ = run(State(model), parse(f"calibrate(count={count})"))
    (group,) = state.groups
    if group.size == 6:
        state = State(model, drop={group.name: np.array([0, 4, 5])}, data=state.data)
    else:  # in two groups of three channels, a unit is a channel of each
        state = State(model, drop={group.name: np.array([0])}, data=state.data)
    after, records = run(state, parse("cut, reconstruct"))
    inputs = {"x": rng.standard_normal((1, 2, 6, 6)).astype(np.float32)}
    got, wanted = Runner(after.model)(inputs)["y"], Runner(model)(inputs)["y"]
    assert records[0].agreement.error < 1e-5
    if group.size == 6:
        assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    else:
        lost = np.abs(Runner(run(state, parse("cut"))[0].model)(inputs)["y"] - wanted).mean()
        assert np.abs(got - wanted).mean() < lost


@pytest.fixture(scope="module")
def items():
    return RESNET.items()


def accuracy(result, items, folder) -> float:
    result.save(folder / "m.onnx")
    return RESNET.evaluate(onnxruntime_run(folder / "m.onnx"), items)[0].accuracy


def test_a_real_network_keeps_working(items, tmp_path):
    """Dense 94 %, half of the MACs; no data, no labels, no training."""
    assert accuracy(graphprune.prune(RESNET.path, target_macs=0.5, effort=0), items, tmp_path) >= 0.915
    plain = graphprune.prune(RESNET.path, target_macs=0.5, preset="magnitude")
    assert accuracy(plain, items, tmp_path) <= 0.3


@pytest.mark.slow
def test_inputs_that_match_the_statistics_keep_more(items, tmp_path):
    """A quarter of the MACs, about five points of 94 % lost; noise alone loses thirty."""
    assert accuracy(graphprune.prune(RESNET.path, target_macs=0.25), items, tmp_path) >= 0.85


def test_a_replay_writes_the_same_bytes(tmp_path):
    passes = "fold_constants, fold_batchnorm, calibrate(count=4, effort=0.01), obs, allocate(macs=0.8), cut"
    first = graphprune.prune(RESNET.path, passes=passes + ", reconstruct, repair, fold_batchnorm")
    first.save(tmp_path / "a.onnx")
    graphprune.prune(RESNET.path, plan=first.plan).save(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
@pytest.mark.parametrize("what", ["macs", "params"])
def test_allocation_meets_its_target_from_below(what, share):
    state, _ = run(State(load(RESNET.path)), parse("fold_constants, magnitude"))
    cost = CostModel(state.model, state.groups)
    drop = Allocate(**{what: share})(state).drop
    after, before = cost.at({name: len(units) for name, units in drop.items()}), cost.at()
    kept = after.macs / before.macs if what == "macs" else after.parameters / before.parameters
    assert share - 0.03 < kept <= share  # a channel of the widest group is 2 % of the MACs


def test_uncalibrated():
    with pytest.raises(UsageError, match="calibrated"):
        Reconstruct()(State(load(RESNET.path)))
