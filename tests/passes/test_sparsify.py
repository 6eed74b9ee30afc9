"""Zeros in blocks: how many, where, and that what is left is the best there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphprune
from graphprune.calibration import Calibration
from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError
from graphprune.model import Model, load
from graphprune.obs import damped, error
from graphprune.pipeline import parse, run
from graphprune.plan import from_records
from graphprune.state import State
from graphprune.zeros import dense
from models import find
from models.zoo import onnxruntime_run
from tests.law import net

CALIBRATED = "calibrate(count=8)"


def three_layers(**weights: np.ndarray) -> onnx.ModelProto:
    return net(
        """a = Conv<pads=[1,1,1,1]>(x, v, b)
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w)
        p = GlobalAveragePool(c)
        f = Flatten(p)
        y = MatMul(f, u)""",
        inputs="float[1,3,12,12] x",
        **{"v": (12, 3, 3, 3), "b": (12,), "w": (16, 12, 3, 3), "u": (16, 10), **weights},
    )


def sparsified(proto: onnx.ModelProto, text: str) -> tuple[Model, Calibration]:
    state, _ = run(State(load(proto)), parse(f"{CALIBRATED}, {text}"))
    return state.model, state.data["calibration"]


def rows(model: Model, name: str) -> np.ndarray:
    weight = np.asarray(model.constants[name].values)
    return weight.reshape(len(weight), -1)


@pytest.mark.parametrize("block", [1, 3, 4])
def test_the_share_asked_for_is_zero_in_whole_blocks(block: int) -> None:
    model, _ = sparsified(three_layers(), f"sparsify(ratio=0.6, block={block})")
    zeros = {name: rows(model, name) == 0 for name in "vw"}
    for mask in zeros.values():
        for at in range(0, len(mask), block):
            part = mask[at : at + block]
            assert (part == part[0]).all()
            assert (~part[0]).sum() >= 1
    share = sum(int(m.sum()) for m in zeros.values()) / sum(m.size for m in zeros.values())
    assert 0.58 < share <= 0.6  # both layers work on the same number of pixels
    assert not (np.asarray(model.constants["u"].values) == 0).any()  # applied once


def test_what_is_left_is_fitted_exactly() -> None:
    model, calibration = sparsified(three_layers(), "sparsify(ratio=0.5, block=4)")
    moments = calibration.moments["w"]
    second = damped(moments.second[0], 0.01)
    block, targets = rows(model, "w")[4:8], moments.weights[0, 4:8]
    kept = np.append(np.flatnonzero(block[0]), block.shape[1])
    best = np.linalg.lstsq(np.linalg.cholesky(second).T[:, kept], np.linalg.cholesky(second).T @ targets.T, rcond=None)
    assert block[:, kept[:-1]] == pytest.approx(best[0].T[:, :-1], abs=1e-5)


def lost(text: str, **weights: np.ndarray) -> float:
    """Share of the power of the second layer's output that the zeros cost."""
    model, calibration = sparsified(three_layers(**weights), text)
    moments = calibration.moments["w"]
    fitted = np.c_[rows(model, "w"), np.asarray(model.constants["c:bias"].values)]
    power = np.einsum("oi,ij,oj->", moments.weights[0], moments.second[0], moments.weights[0])
    return error(moments.weights[0], moments.second[0], fitted, np.arange(fitted.shape[1])) / power


def test_twins_go_first() -> None:
    """Every second input channel of w repeats the one before; a twin is free until the other one is gone."""
    rng = np.random.default_rng(3)
    v, b = (np.repeat(rng.normal(size=shape), 2, 0).astype(np.float32) for shape in ((6, 3, 3, 3), (6,)))
    assert lost("sparsify(ratio=0.35)", v=v, b=b) < 0.01


def test_single_weights_keep_more() -> None:
    assert lost("sparsify(ratio=0.7, block=1)") < 0.8 * lost("sparsify(ratio=0.7, block=4)")


def test_every_loss_adds_what_it_is_said_to() -> None:
    """The sum of what the first losses of a block add is its error once it is fitted to the rest."""
    state, _ = run(State(load(three_layers())), parse(CALIBRATED))
    zeros = dense(state, 4, 0.01)
    for block, losses in zip(zeros.of("w"), zeros.losses()["w"], strict=True):
        assert sorted(losses.order) == list(range(108))
        assert losses.added[-1] == np.inf  # one stays
        for count in (3, 60, 105, 107):  # three of the 108 go at a time
            left = losses.left(count)
            assert len(left) == 108 - count
            assert losses.added[:count].sum() == pytest.approx(block.error(block.matrix(left)), rel=1e-6)


def test_losing_a_few_inputs_at_a_time_costs_little_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four nets together: of one, what is greedy may be lucky."""

    def whole() -> float:
        draws = (np.random.default_rng(seed).normal(size=(12, 3, 3, 3)).astype(np.float32) for seed in range(4))
        return sum(lost("sparsify(ratio=0.6)", v=v) for v in draws)

    monkeypatch.setattr("graphprune.zeros.STEPS", 108)
    one_by_one = whole()
    monkeypatch.setattr("graphprune.zeros.STEPS", 27)
    four = whole()
    monkeypatch.setattr("graphprune.zeros.WORK", 0)  # all as if alone
    alone = whole()
    assert one_by_one < four < 1.05 * one_by_one < 1.1 * one_by_one < alone


def test_layers_of_too_much_work_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = sparsified(three_layers(), "sparsify(ratio=0.6, block=4)")
    monkeypatch.setattr("graphprune.zeros.WORK", 0)
    coarse, _ = sparsified(three_layers(), "sparsify(ratio=0.6, block=4)")
    zeros = sum(int((rows(coarse, name) == 0).sum()) for name in "vw")
    assert 0.58 < zeros / (12 * 27 + 16 * 108) <= 0.6
    assert (rows(coarse, "w") != rows(model, "w")).any()


def matters(state: State, name: str, importance: np.ndarray) -> State:
    """The state with what errors of a layer's outputs count."""
    calibration = state.data["calibration"]
    moments = {**calibration.moments, name: replace(calibration.moments[name], importance=importance)}
    return replace(state, data={**state.data, "calibration": replace(calibration, moments=moments)})


def test_outputs_that_matter_keep_more() -> None:
    state, _ = run(State(load(three_layers())), parse(CALIBRATED))
    for of in (slice(0, 4), slice(8, 12)):
        importance = np.full(16, 0.01)
        importance[of] = 1.0
        model = parse("sparsify(ratio=0.6, block=4)")[0].run(matters(state, "w", np.diag(importance))).model
        kept = (rows(model, "w")[::4] != 0).sum(1)
        assert kept[of.start // 4] > 2 * np.delete(kept, of.start // 4).max()


@pytest.mark.parametrize("block", [1, 4])
def test_patterns_hold_in_every_group_of_channels(block: int) -> None:
    model, _ = sparsified(three_layers(), f"sparsify(pattern='2:4', block={block})")
    kept = np.asarray(model.constants["w"].values) != 0
    assert (kept.reshape(16, 3, 4, 9).sum(2) == 2).all()
    first = np.asarray(model.constants["v"].values) != 0
    assert (first.sum(1) == 2).all()  # three channels are a group of their own
    assert graphprune.prune(three_layers(), sparsity="1:2", effort=0).report.sparsity == pytest.approx(0.49, abs=0.03)


def test_levels_follow_error_and_time() -> None:
    """Time is what w takes, so its zeros are all that is worth anything; and no more of them than it needs."""

    def profile(model: Model) -> tuple[float, dict[str, float]]:
        return 1 + 10 * float((rows(model, "w") != 0).mean()), {"c": 10 * float((rows(model, "w") != 0).mean())}

    proto = three_layers()
    for node in proto.graph.node:
        node.name = node.output[0]
    state, _ = run(State(load(proto), data={"profile": profile}), parse(f"{CALIBRATED}, curve_zeros"))
    curves = state.data["zeros"]
    assert curves.rest == pytest.approx(1)
    assert (np.diff(curves.layers["w"].errors) > 0).all()
    assert curves.layers["w"].levels[[0, -1]] == pytest.approx([0, 0.88])
    for wanted in (7.3, 4.0):
        model = parse(f"sparsify(milliseconds={wanted})")[0].run(state).model
        assert (rows(model, "v") != 0).all()
        assert profile(model)[0] == pytest.approx(wanted, abs=0.1)
    with pytest.raises(TargetNotReachedError, match=r"2\.. ms at least, and 0\.5 ms are wanted"):
        parse("sparsify(milliseconds=0.5)")[0].run(state)
    with pytest.raises(UsageError, match="needs curves"):
        run(State(load(proto)), parse(f"{CALIBRATED}, sparsify(milliseconds=5)"))


def test_a_latency_is_replayed_without_a_clock() -> None:
    """The levels that were measured stand in the plan: another machine makes the same bytes."""

    def profile(model: Model) -> tuple[float, dict[str, float]]:
        return 1 + 10 * float((rows(model, "w") != 0).mean()), {"c": 10 * float((rows(model, "w") != 0).mean())}

    proto = three_layers()
    for node in proto.graph.node:
        node.name = node.output[0]
    model = load(proto)
    steps = parse(f"{CALIBRATED}, curve_zeros(block=2), sparsify(milliseconds=6.5)")
    state, records = run(State(model, data={"profile": profile}), steps)
    assert "milliseconds" in records[-1].text
    plan = from_records(model, records)
    assert not any("curve_zeros" in text or "milliseconds" in text for text in (*plan.before, *plan.after))
    again = graphprune.prune(model, plan=plan)
    assert (rows(again.model, "w") == 0).any()
    for name, constant in state.model.constants.items():
        assert np.array_equal(constant.values, again.model.constants[name].values), name


def test_it_needs_calibration() -> None:
    with pytest.raises(UsageError, match="calibrate"):
        run(State(load(three_layers())), parse("sparsify"))


def test_a_plan_replays_the_zeros() -> None:
    proto = three_layers()
    result = graphprune.prune(
        proto, passes=f"{CALIBRATED}, obs, uniform(ratio=0.5), cut, reconstruct, sparsify(ratio=0.5)"
    )
    again = graphprune.prune(proto, plan=result.plan)
    for name, constant in result.model.constants.items():
        assert np.array_equal(constant.values, again.model.constants[name].values), name


def test_a_trained_network_works_with_half_of_its_weights(tmp_path: Path) -> None:
    resnet, items = find("fashion_resnet20"), find("fashion_resnet20").items()
    steps = "calibrate(count=16), sparsify(ratio=0.5), repair"
    result = graphprune.prune(resnet.path, passes=f"fold_batchnorm, {steps}, fold_batchnorm, clean")
    assert any("50% of the multiply-accumulates" in note for note in result.report.notes)
    result.save(tmp_path / "half.onnx")
    assert resnet.evaluate(onnxruntime_run(tmp_path / "half.onnx"), items)[0].accuracy > 0.92


def test_the_option_works_alone_and_after_a_cut() -> None:
    alone = graphprune.prune(three_layers(), sparsity=0.5, round_to=1)
    both = graphprune.prune(three_layers(), ratio=0.5, sparsity=0.5, round_to=1)
    assert alone.report.kept.channels == 1
    assert both.report.kept.channels == 0.5
    for result in (alone, both):
        assert 0.45 < result.report.sparsity <= 0.5
        zero = sum(int((rows(result.model, name) == 0).sum()) for name in "vw")
        assert zero / sum(rows(result.model, name).size for name in "vw") == pytest.approx(
            result.report.sparsity, abs=1e-6
        )


def test_only_calibrated_presets_can() -> None:
    with pytest.raises(UsageError, match="preset 'magnitude' cannot"):
        graphprune.prune(three_layers(), ratio=0.5, sparsity=0.5, preset="magnitude")


def test_a_model_without_such_layers_is_said_to_have_none() -> None:
    proto = net("f = Flatten(x)\ny = MatMul(f, u)", u=(192, 10))
    with pytest.raises(NothingToPruneError, match="no layer"):
        graphprune.prune(proto, sparsity=0.5, effort=0)


@pytest.mark.parametrize("options", ["ratio=1.5", "ratio=-0.1", "block=0", "pattern='4:2'", "pattern='x'"])
def test_amounts_that_mean_nothing_are_refused(options: str) -> None:
    with pytest.raises(UsageError):
        parse(f"sparsify({options})")
