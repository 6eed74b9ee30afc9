"""Noise, imposed statistics, and moments against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphprune.calibration import calibrate
from graphprune.calibration.activations import assorted, batched, checked, read_inputs, run, synthetic
from graphprune.calibration.gradient import with_outputs
from graphprune.calibration.images import real_inputs
from graphprune.calibration.noise import KINDS, NOISE
from graphprune.calibration.statistics import imposed, observed, shrunk
from graphprune.errors import UsageError
from graphprune.model import load
from graphprune.proof import Runner
from graphprune.rules import Dim
from tests.law import net

DEEP = net("t = Conv(x, a)\nu = Relu(t)\nv = Conv(u, b)\ny = Relu(v)", a=(6, 3, 3, 3), b=(5, 6, 1, 1))


def statistics(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    return {n: {"mean": rng.standard_normal(c), "std": rng.uniform(0.5, 2, c)} for n, c in (("t", 6), ("v", 5))}


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_seeded_and_of_unit_size(kind):
    a, b = (KINDS[kind]((64, 3, 33, 48), np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(a, b)
    assert abs(a.mean()) < 0.5
    assert 0.5 < a.std() < 1.5


def test_pink_noise_is_smooth_and_leaves_have_edges():
    rough, smooth = (np.abs(np.diff(KINDS[k]((4, 3, 64, 64), np.random.default_rng(0)))) for k in ("white", "pink"))
    assert smooth.mean() < 0.6 * rough.mean()
    flat = np.abs(np.diff(KINDS["leaves"]((4, 3, 64, 64), np.random.default_rng(0))))
    assert np.median(flat) < 0.5 * flat.mean()


def test_objects_lie_on_a_plain_ground():
    objects = KINDS["objects"]((32, 3, 64, 96), np.random.default_rng(0))
    plain = (np.diff(objects, axis=3) == 0).mean(axis=(1, 2, 3))
    assert np.median(plain) > 0.5
    assert (plain < 1).all()


@pytest.mark.parametrize("kind", ["strokes", "writing"])
def test_drawings_are_grey_and_more_than_noise(kind):
    images = KINDS[kind]((32, 3, 64, 96), np.random.default_rng(0))
    assert np.array_equal(images[:, 0], images[:, 1])
    steps = np.diff(images[:, 0]).reshape(32, -1)
    tails = (steps**4).mean(axis=1) / (steps**2).mean(axis=1) ** 2  # 3 where there is nothing but noise
    assert np.median(tails) > 4


def test_writing_is_in_lines():
    """Rows differ, as some are between lines; columns do not, but for the words."""
    strokes, writing = (KINDS[k]((64, 1, 96, 96), np.random.default_rng(0))[:, 0] for k in ("strokes", "writing"))
    ratio = [np.median(x.mean(axis=2).std(axis=1) / x.mean(axis=1).std(axis=1)) for x in (strokes, writing)]
    assert ratio[0] == pytest.approx(1, abs=0.2)
    assert ratio[1] > 1.25


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 4, 4), (2, 1, 3, 64), (2, 2, 200, 1)])
def test_noise_comes_in_any_size(kind, shape):
    made = KINDS[kind](shape, np.random.default_rng(0))
    assert made.shape == shape
    assert np.isfinite(made).all()


def test_second_moments_are_those_of_the_tensor():
    model = load(DEEP)
    found = calibrate(model, {}, count=8)
    x = assorted(batched(model), 8 * len(KINDS), 0, (-2, 2))
    u = next(iter(run(batched(model), ["u"], x)))["u"]
    rows = np.concatenate([np.moveaxis(u, 1, -1).reshape(-1, 6), np.ones((u.size // 6, 1))], axis=1).astype(np.float64)
    assert found.moments["b"].second[0] == pytest.approx(rows.T @ rows / len(rows), rel=1e-6)
    assert "no BatchNorm" in found.source


def test_statistics_say_which_images_are_shown():
    """Noise is scaled to them; where there are none, pictures are shown too."""
    assert list(calibrate(load(DEEP), {}, count=2).noise) == list(KINDS)
    assert list(calibrate(load(DEEP), statistics(np.random.default_rng(1)), count=2).noise) == list(NOISE)


@pytest.mark.parametrize(
    ("room", "measured"), [(1 << 20, {"a", "b", "c"}), (8 * (28**2 + 7**2), {"a", "b"}), (8 * 7**2, {"b"}), (0, {"b"})]
)
def test_a_large_model_measures_layers_that_lose_inputs_first(room, measured, monkeypatch):
    body = "t = Conv(x, a)\nu = Relu(t)\nv = Conv(u, b)\nw = Relu(v)\ny = Conv(w, c)"
    model = load(net(body, a=(6, 3, 3, 3), b=(5, 6, 1, 1), c=(4, 5, 1, 1)))
    monkeypatch.setattr("graphprune.calibration.HELD_MOMENTS", room)
    found = calibrate(model, {}, count=2, losing={Dim("a", 0), Dim("b", 1)})
    assert set(found.moments) == measured
    assert set(found.skipped) == {"a", "b", "c"} - measured


def test_imposed_statistics_hold_at_every_tensor():
    model, wanted = batched(load(DEEP)), statistics(np.random.default_rng(1))
    x = synthetic(model, "pink", 16, 0, (-2, 2))
    changed = imposed(model, wanted, observed(model, wanted, x))
    values = next(iter(run(changed, ["t", "v"], x)))
    for name, moments in wanted.items():
        assert values[name].mean((0, 2, 3)) == pytest.approx(moments["mean"], abs=1e-2)
        assert values[name].std((0, 2, 3)) == pytest.approx(moments["std"], rel=1e-2)


def test_the_batch_is_opened_where_the_model_lets_it():
    assert len(next(iter(run(batched(load(DEEP)), ["t"], {"x": np.zeros((6, 3, 8, 8), np.float32)})))["t"]) == 6


@pytest.mark.parametrize(
    ("view", "sizes", "shapes"),
    [
        ("u = Reshape(t, s)", [1, 48], [(6, 48)]),
        ("u = Reshape(t, s)", [1, -1], [(6, 48)]),
        ("v = Transpose<perm=[1,0,2,3]>(t)\nu = Reshape(v, s)", [1, 48], [(1, 48)] * 6),
        ("v = ReduceMean<axes=[0]>(t)\nu = Reshape(v, s)", [1, 48], [(1, 48)] * 6),
        ("m = ReduceMax<axes=[0]>(t)\nv = Add(t, m)\nu = Reshape(v, s)", [1, 48], [(1, 48)] * 6),
    ],
)
def test_views_that_spell_a_batch_of_one_out(view: str, sizes: list[int], shapes: list[tuple[int, int]]) -> None:
    """They are opened where every item comes out as it does alone."""
    weights = {"a": (3, 3, 1, 1), "s": np.array(sizes, np.int64), "b": (48, 2)}
    model = load(net(f"t = Conv(x, a)\n{view}\ny = MatMul(u, b)", inputs="float[1,3,4,4] x", **weights))
    x = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    found = [chunk["u"] for chunk in run(batched(model), ["u"], {"x": x})]
    assert [u.shape for u in found] == shapes
    alone = Runner(replace(model, header=with_outputs(model.header, ["u"])))
    assert np.concatenate(found) == pytest.approx(np.concatenate([alone({"x": one[None]})["u"] for one in x]), abs=1e-5)


def test_little_memory_means_more_chunks_and_the_same_moments(monkeypatch):
    whole = calibrate(load(DEEP), {}, count=8)
    monkeypatch.setattr("graphprune.calibration.activations.MEMORY", 20_000)
    pieces = calibrate(load(DEEP), {}, count=8)
    assert pieces.moments["b"].second == pytest.approx(whole.moments["b"].second, rel=1e-6)


def test_real_inputs_weigh_half():
    given = {"x": np.random.default_rng(0).uniform(3, 4, (8, 3, 8, 8)).astype(np.float32)}
    noise, mixed = (calibrate(load(DEEP), {}, count=8, given=g).moments["a"].second[0] for g in (None, given))
    assert mixed[0, -1] == pytest.approx((noise[0, -1] + 3.5) / 2, abs=0.1)
    with pytest.raises(UsageError, match="'x'"):
        calibrate(load(DEEP), {}, count=2, given={"z": given["x"]})


def test_whole_number_inputs_stay_below_the_table_they_index():
    words = net("e = Gather(t, x)\ny = MatMul(e, b)", inputs="int64[1,7] x", t=(30, 8), b=(8, 4))
    found = calibrate(load(words), {}, count=8)
    assert found.moments["b"].second.shape == (1, 9, 9)


def test_few_samples_lose_their_correlations_and_keep_their_variances():
    rows = np.c_[np.random.default_rng(0).standard_normal((5, 40)), np.ones(5)]
    second = rows.T @ rows / 5
    few, many = shrunk(second, 5), shrunk(second, 5000)
    assert np.array_equal(many, second)
    assert np.diagonal(few) == pytest.approx(np.diagonal(second))
    assert np.linalg.eigvalsh(few).min() > 1e-3 > np.abs(np.linalg.eigvalsh(second)).min()


def test_inputs_that_overflow_are_left_out():
    huge = net("t = Conv(x, a)\nu = Exp(t)\ny = Conv(u, b)", a=np.full((4, 3, 1, 1), 1e4, np.float32), b=(2, 4, 1, 1))
    found = calibrate(load(huge), {}, count=2)
    assert set(found.moments) == {"a"}
    assert found.skipped == {"b": "its inputs are not finite"}


def test_an_npz_file_and_anything_else(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    assert read_inputs(tmp_path / "x.npz")["x"].tolist() == [1, 1, 1]
    (tmp_path / "y.npz").write_text("no")
    for name in ("y.npz", "z.npz"):
        with pytest.raises(UsageError, match=name):
            read_inputs(tmp_path / name)


def _images(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (_images(4, 3, 6, 8), r"\[4, 3, 6, 8\], model takes \[any, 3, 8, any\]"),
        (_images(3, 8, 8), r"\[3, 8, 8\], model takes"),
        (_images(4, 3, 8, 8, dtype="complex64"), "holds complex64, model takes float32"),
        (_images(4, 3, 8, 8) * np.float32("nan"), "not finite"),
        (_images(4, 3, 8, 8, dtype="float64") * 1e300, "not finite"),
    ],
)
def test_real_inputs_that_the_model_does_not_take(x, said):
    model = load(net("y = Conv(x, a)", a=(4, 3, 1, 1), inputs="float[1,3,8,width] x"))
    with pytest.raises(UsageError, match=said):
        checked({"x": x}, model)


def test_the_file_or_the_option_is_named(tmp_path):
    model, wrong = load(net("y = Conv(x, a)", a=(4, 3, 1, 1))), {"x": _images(4, 3, 9, 9)}
    np.savez(tmp_path / "wrong.npz", **wrong)
    for data, named in ((tmp_path / "wrong.npz", "wrong.npz: array 'x'"), (wrong, "held_out: array 'x'")):
        with pytest.raises(UsageError, match=named):
            real_inputs(data, model, name="held_out")


def test_real_inputs_are_converted():
    model = load(net("y = Conv(x, a)", a=(4, 3, 1, 1), inputs="float[1,3,8,width] x"))
    for x in (_images(4, 3, 8, 5, dtype="uint8"), _images(2, 3, 8, 8, dtype="float64")):
        found = checked({"x": x, "unused": x}, model)
        assert found["x"].dtype == np.float32
        assert np.array_equal(found["x"], x)
        assert found["unused"] is x


def test_real_inputs_whose_outputs_are_saturated_tell_nothing_of_importance():
    norm = {"s": np.ones(4, np.float32), "h": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
    text = "t = Conv(x, a)\nn = BatchNormalization(t, s, h, m, v)\ny = Clip(n, low, high)"
    ends = {"low": np.array(-0.5, np.float32), "high": np.array(0.5, np.float32), "v": np.ones(4, np.float32)}
    model = load(net(text, a=(4, 3, 1, 1), **norm, **ends))
    given = {"x": np.full((6, 3, 8, 8), 1e4, np.float32)}
    alone, beside = (calibrate(model, {}, count=4, effort=0.1, given=g).moments["a"].importance for g in (None, given))
    assert alone is not None
    assert np.array_equal(alone, beside)
