"""Running models and comparing what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphprune import proof
from graphprune.cut import cut, gone, zeroed
from graphprune.errors import InvalidModelError
from graphprune.groups import analyse
from graphprune.model import load
from graphprune.proof import LAW_RTOL, Agreement, Runner, compare, compare_layers, judge, rtol, seeded_inputs, watched
from graphprune.rules import Dim
from tests.law import net

ONE = np.array([1.0, -2.0, 4.0], np.float32)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (ONE, 0.0),
        (ONE + np.float32(0.5), 0.125),
        (ONE[:2], float("inf")),
        (ONE.astype(np.float64), float("inf")),
        (np.array([1, -2, np.nan], np.float32), float("inf")),
        (np.array([1, -2, np.inf], np.float32), float("inf")),
    ],
    ids=["equal", "off by an eighth", "other shape", "other type", "NaN", "infinite"],
)
def test_error_is_relative_to_the_largest_value(result: np.ndarray, error: float) -> None:
    agreement = compare({"y": result}, {"y": ONE}, 1e-5)
    assert agreement.error == pytest.approx(error)
    assert agreement.holds == (error == 0)
    assert agreement.silent == []


def test_a_missing_output_is_no_agreement() -> None:
    assert compare({}, {"y": ONE}, 1e-5).error == float("inf")


def test_nan_on_both_sides_proves_nothing() -> None:
    nan = np.full(3, np.nan, np.float32)
    assert not compare({"y": nan}, {"y": nan}, 1e-5).holds


def test_infinities_may_agree() -> None:
    masked = np.array([1.0, -np.inf, 4.0], np.float32)
    assert compare({"y": masked}, {"y": masked}, 1e-5).error == 0
    assert compare({"y": -masked}, {"y": masked}, 1e-5).error == float("inf")


def test_sequence_inputs_cannot_be_made_up() -> None:
    body = "net (seq(float[2]) x, int64 k) => (float[2] y) { y = SequenceAt(x, k) }"
    text = f'<ir_version: 8, opset_import: ["" : 17]> {body}'
    with pytest.raises(InvalidModelError, match="'x' is a sequence"):
        seeded_inputs(load(onnx.parser.parse_model(text)))


def test_silence_is_reported() -> None:
    zero = np.zeros(3, np.float32)
    assert compare({"y": zero}, {"y": zero}, 1e-5).silent == ["y"]
    assert compare({"y": ONE}, {"y": zero}, 1e-5).error == 4  # absolute


def test_whole_numbers_must_be_equal() -> None:
    a, b = np.array([1, 2]), np.array([1, 3])
    assert compare({"y": a}, {"y": a}, 0).holds
    assert compare({"y": a}, {"y": b}, 1e9).error == float("inf")


def test_the_worst_output_counts() -> None:
    agreement = compare({"y": ONE, "z": ONE * 2}, {"y": ONE, "z": ONE}, 1e-5)
    assert agreement.outputs == {"y": 0.0, "z": 1.0}
    assert agreement.error == 1.0


def test_inputs_are_seeded_and_legal() -> None:
    body = "e = Gather(w, x)\np = Cast<to=1>(m)\ny = Mul(e, p)\nz = Relu(f)"
    inputs = "int64[2,5] x, bool[2,5,6] m, float[N,3] f, int32[4] i"
    model = load(net(f"{body}\nq = Cast<to=1>(i)", inputs=inputs, outputs="y z q", w=(11, 6)), dim_params={"N": 7})
    first, again, other = seeded_inputs(model, 1), seeded_inputs(model, 1), seeded_inputs(model, 2)
    assert {n: (v.dtype.name, v.shape) for n, v in first.items()} == {
        "x": ("int64", (2, 5)),
        "m": ("bool", (2, 5, 6)),
        "f": ("float32", (7, 3)),
        "i": ("int32", (4,)),
    }
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not np.array_equal(first["f"], other["f"])
    assert 2 < first["x"].max() < 11
    assert first["i"].max() <= 1
    assert Runner(model)(first)["y"].shape == (2, 5, 6)


def test_text_inputs_cannot_be_made_up() -> None:
    model = load(net("y = Identity(x)", inputs="string[2] x"))
    with pytest.raises(InvalidModelError, match="'x' of type"):
        seeded_inputs(model)


def test_a_model_that_runs_only_at_other_sizes_says_so() -> None:
    model = load(net("r = Reshape(x, s)\ny = Relu(r)", inputs="float[N,3] x", s=np.array([2, 6])))
    with pytest.raises(InvalidModelError, match="fails at the analysis sizes") as caught:
        Runner(model)({"x": np.zeros((1, 3), np.float32)})
    assert "--input-shape" in caught.value.hint


def test_weights_beyond_a_protobuf_go_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(net("y = MatMul(x, a)", inputs="float[5,64] x", a=(64, 32)))
    inputs = seeded_inputs(model)
    before = Runner(model)(inputs)
    monkeypatch.setattr("graphprune.model.LARGEST_INLINE", 100)
    assert model.streamed
    assert np.array_equal(Runner(model)(inputs)["y"], before["y"])
    np.testing.assert_allclose(Runner(model, optimise=True)(inputs)["y"], before["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "tolerance"),
    [
        ((np.float32,), LAW_RTOL["float32"]),
        ((np.float64,), LAW_RTOL["float64"]),
        ((np.float16,), LAW_RTOL["float16"]),
    ],
)
def test_the_coarsest_type_sets_the_tolerance(weights: tuple[type, ...], tolerance: float) -> None:
    element = {np.float32: "float", np.float64: "double", np.float16: "float16"}[weights[0]]
    a = np.ones((3, 4), weights[0])
    assert rtol(load(net("y = MatMul(x, a)", inputs=f"{element}[2,3] x", a=a)), LAW_RTOL) == tolerance


def test_mixed_types_are_judged_by_the_coarser() -> None:
    a = np.ones((3, 4), np.float16)
    model = load(net("h = Cast<to=10>(x)\nt = MatMul(h, a)\ny = Cast<to=1>(t)", inputs="float[2,3] x", a=a))
    assert rtol(model, LAW_RTOL) == LAW_RTOL["float16"]


def cut_layers(sabotage: bool) -> Agreement:
    """A saturated net: both of its outputs are 1 whatever the channels hold, so that only inner tensors can tell."""
    model = load(
        net(
            "a = Conv(x, w)  b = Relu(a)  c = Conv(b, v)  d = Sigmoid(c)  e = Add(d, big)  y = Clip(e, lo, hi)",
            w=(8, 3, 1, 1),
            v=(4, 8, 1, 1),
            big=np.array(9, np.float32),
            lo=np.array(0, np.float32),
            hi=np.array(1, np.float32),
        )
    )
    groups = analyse(model).groups
    going = gone(groups, {groups[0].name: np.array([0, 3])})
    smaller = cut(model, going)
    if sabotage:
        smaller.constants["v"].values = smaller.constants["v"].values[:, ::-1].copy()
    inputs, made_from = seeded_inputs(model), watched(model)
    reference, result = Runner(zeroed(model, going), also=made_from)(inputs), Runner(smaller, also=made_from)(inputs)
    assert compare({"y": result["y"]}, {"y": reference["y"]}, 1e-5).error == 0
    return compare_layers(result, reference, made_from, going, 1e-3)


def test_inner_tensors_prove_a_cut_that_outputs_cannot() -> None:
    proof = cut_layers(sabotage=False)
    assert list(proof.outputs) == ["c", "d", "e", "y", "a", "b"]  # small ones first
    assert proof.holds
    assert proof.error < 1e-6


def test_inner_tensors_betray_a_wrong_cut() -> None:
    proof = cut_layers(sabotage=True)
    assert not proof.holds
    assert proof.outputs["a"] < 1e-6
    assert proof.outputs["c"] > 0.1


def test_what_cancels_is_measured_against_what_it_is_made_of() -> None:
    made_from = {"y": ("x",)}
    reference = {"x": np.array([1e4], np.float32), "y": np.array([1e-3], np.float32)}
    result = {"x": np.array([1e4], np.float32), "y": np.array([2e-3], np.float32)}
    assert compare_layers(result, reference, made_from, {}, 1e-3).error == pytest.approx(1e-5, rel=1e-3)
    gone_y = {Dim("y", 0): np.array([True])}
    assert compare_layers(result, reference, made_from, gone_y, 1e-3).error == float("inf")  # not cut as promised


def test_numbers_stay_below_what_they_are_looked_up_in() -> None:
    body = "r = Unsqueeze(x, last)  e = Equal(r, letters)  y = Cast<to=1>(e)"
    letters = {"last": np.array([2]), "letters": np.arange(257).reshape(1, 1, 257)}
    assert seeded_inputs(load(net(body, inputs="int64[1,900] x", **letters)))["x"].max() > 200
    assert seeded_inputs(load(net("y = Cast<to=1>(x)", inputs="int64[1,900] x")))["x"].max() == 1
    below = net("e = Equal(x, none)  y = Cast<to=1>(e)", inputs="int64[1,900] x", none=np.array([-1]))
    assert seeded_inputs(load(below))["x"].max() == 1


def test_what_rounding_alone_does_is_allowed() -> None:
    # A difference of nearly equal numbers: a rounding of the input is a thousand times larger in the output.
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    model = load(net("y = Sub(x, near)", inputs="float[1,64] x", near=x * np.float32(0.999)))
    inputs = {"x": x}
    exact = Runner(model)(inputs)
    other = Runner(model)({"x": x * np.float32(1 + 2**-22)})
    assert not compare(other, exact, 1e-5).holds
    allowed = judge(other, exact, 1e-5, model, inputs)
    assert 1e-5 < allowed.rtol <= 1e-2
    assert allowed.holds
    wrong = {"y": exact["y"][:, ::-1]}
    assert not judge(wrong, exact, 1e-5, model, inputs).holds


def test_tolerances_stay_where_rounding_explains_nothing() -> None:
    model = load(net("y = Mul(x, two)", inputs="float[1,64] x", two=np.array(2, np.float32)))
    inputs = seeded_inputs(model)
    exact = Runner(model)(inputs)
    off = {"y": exact["y"] * np.float32(1 + 1e-4)}
    judged = judge(off, exact, 1e-5, model, inputs)
    assert judged.rtol == 1e-5
    assert not judged.holds


def test_a_saturated_sigmoid_is_judged_by_what_it_reads() -> None:
    """Its result is right to a rounding of 1: however exact the logits, outputs of 1e-6 are off by a tenth."""
    bias = np.array(-14, np.float32)
    model = load(net("t = Add(x, bias)  y = Sigmoid(t)", inputs="float[1,64] x", bias=bias))
    inputs = seeded_inputs(model)
    exact = Runner(model, also=["t"])(inputs)
    off = {"y": exact["y"] + np.float32(2**-23), "t": exact["t"] * np.float32(1 + 2**-22)}
    assert compare(off, {"y": exact["y"]}, 1e-5).error > 1e-2
    judged = judge(off, exact, 1e-5, model, inputs)
    assert (list(judged.outputs), judged.rtol, judged.holds) == (["t"], 1e-5, True)
    wrong = {**off, "t": exact["t"] * np.float32(1 + 1e-4)}
    assert not judge(wrong, exact, 1e-5, model, inputs).holds
    assert judge({"y": off["y"]}, exact, 1e-5, model, inputs).holds  # of a compiled model the logits are not known
    assert not judge({"y": exact["y"] * 2}, exact, 1e-5, model, inputs).holds


def test_a_sigmoid_below_its_rounding_proves_nothing() -> None:
    model = load(net("t = Add(x, bias)  y = Sigmoid(t)", inputs="float[1,64] x", bias=np.array(-19, np.float32)))
    inputs = seeded_inputs(model)
    exact = Runner(model)(inputs)
    assert judge({"y": exact["y"] * np.float32(2)}, exact, 1e-5, model, inputs).silent == ["y"]


def test_watching_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(net("a = Conv(x, w)  y = GlobalAveragePool(a)", w=(8, 3, 1, 1)))
    assert watched(model) == {"y": ("a",), "a": ("x", "w")}
    monkeypatch.setattr(proof, "WATCHED_ELEMENTS", 100)
    assert watched(model) == {"y": ("a",)}
