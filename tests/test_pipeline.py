"""Pipelines: text to passes, every step proved and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphprune import pipeline, plugins
from graphprune.errors import GraphpruneError, InvalidModelError, UsageError, VerificationError
from graphprune.model import load
from graphprune.pipeline import AFTER, BEFORE, PRESETS, Step, available, parse, run
from graphprune.proof import LAW_RTOL, REWRITE_RTOL
from graphprune.rules import RULES, Call, Rule, Tie, Ties
from graphprune.rules.base import cover
from graphprune.state import State
from tests.law import net

BODY = "t = Conv(x, a)\nn = BatchNormalization(t, s, o, m, v)\nr = Relu(n)\nu = Identity(r)\ny = Conv(u, b)"
WEIGHTS = {"a": (6, 3, 3, 3), "b": (2, 6, 1, 1), "s": (6,), "o": (6,), "m": (6,), "v": np.ones(6, np.float32)}


@pytest.fixture
def state() -> State:
    return State(load(net(BODY, **WEIGHTS)))


@pytest.fixture
def _fresh() -> Iterator[None]:
    available.cache_clear()
    yield
    available.cache_clear()


def test_first_party_passes_are_found_by_entry_point() -> None:
    assert {"choose", "clean", "cut", "fold_batchnorm", "fold_constants", "fold_shapes", "magnitude", "uniform"} <= set(
        available()
    )


def test_parse() -> None:
    steps = parse("fold_shapes, magnitude(power=1), uniform(ratio=0.25, multiple=8), cut, clean")
    assert [s.text for s in steps] == [
        "fold_shapes",
        "magnitude(power=1)",
        "uniform(ratio=0.25, multiple=8)",
        "cut",
        "clean",
    ]
    assert steps[1].run == available()["magnitude"](power=1)
    assert steps[2].run == available()["uniform"](ratio=0.25, multiple=8)
    assert parse("") == []
    assert [s.text for s in parse("clean,\n clean,")] == ["clean", "clean"]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_parse(preset: str) -> None:
    assert parse(pipeline.preset(preset, "uniform(ratio=0.5)"))
    assert parse(f"{BEFORE}, {AFTER}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("magnitude(", "cannot be read"),
        ("magnitude, ), cut", "cannot be read"),
        ("nonsense", "no pass is called 'nonsense'"),
        ("magnitude(1)", "is not a pass"),
        ("magnitude(**x)", "is not a pass"),
        ("'cut'", "is not a pass"),
        ("a.cut", "is not a pass"),
        ("cut()()", "is not a pass"),
        ("magnitude(strength=1)", "strength"),
        ("magnitude(power=__import__('os'))", "malformed"),
        ("uniform(ratio=2)", "not between 0 and 1"),
        ("cut] + [clean", "cannot be read"),
        ("x for x in y", "cannot be read"),
    ],
)
def test_what_cannot_be_parsed(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_fresh")
def test_two_packages_with_one_pass_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("cut", "graphprune.passes.cut:Cut", "graphprune.passes"),
        EntryPoint("cut", "other.cut:Cut", "graphprune.passes"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    with pytest.raises(UsageError, match=r"pass called 'cut' .*: graphprune\.passes\.cut:Cut and other\.cut:Cut"):
        available()


@pytest.mark.usefixtures("_fresh")
def test_a_package_that_is_seen_twice_is_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install can be listed twice."""
    points = [EntryPoint("cut", "graphprune.passes.cut:Cut", "graphprune.passes")] * 2
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    assert list(available()) == ["cut"]


def test_every_step_is_recorded_and_proved(state: State) -> None:
    said: list[str] = []
    steps = parse("fold_batchnorm, magnitude, uniform(ratio=0.5), cut, clean")
    after, records = run(state, steps, announce=said.append)
    assert said == [s.text for s in steps] == [r.text for r in records]
    assert [r.nodes for r in records] == [4, 4, 4, 4, 3]
    assert [r.agreement is not None for r in records] == [True, False, False, True, True]
    assert [bool(r.cut) for r in records] == [False, False, False, True, False]
    fold, *_, cut, clean = (r.agreement for r in records)
    assert fold is not None
    assert cut is not None
    assert clean is not None
    assert (fold.rtol, cut.rtol, clean.rtol) == tuple(t["float32"] for t in (REWRITE_RTOL, LAW_RTOL, REWRITE_RTOL))
    assert all(a.holds and not a.silent for a in (fold, cut, clean))
    assert {str(d): int(m.sum()) for d, m in records[3].cut.items()}["a[0]"] == 3
    assert tuple(after.model.constants["a"].shape) == (3, 3, 3, 3)
    assert all(r.seconds >= 0 for r in records)
    assert tuple(state.model.constants["a"].shape) == (6, 3, 3, 3)


@pytest.mark.parametrize(
    "preset", [p for p in sorted(PRESETS) if p in ("magnitude", "l1", "slimming", "random", "clean")]
)
def test_presets_run(preset: str, state: State) -> None:
    after, records = run(state, parse(pipeline.preset(preset, "uniform(ratio=0.5)", seed=3)))
    assert all(r.agreement is None or r.agreement.holds for r in records)
    assert after.model.constants["a"].shape[0] == (6 if preset == "clean" else 3)


@dataclass(frozen=True)
class Sabotage:
    """Changes one weight by a little."""

    by: float

    def __call__(self, state: State) -> State:
        model = state.model.copy()
        weight = model.constants["a"]
        values = np.array(weight.values)
        values[0, 0, 0, 0] += self.by
        weight.values = values
        return replace(state, model=model)


def test_a_pass_that_changes_a_weight_is_caught(state: State) -> None:
    with pytest.raises(VerificationError, match="after 'sabotage' output 'y' is off by") as caught:
        run(state, [Step("sabotage", Sabotage(0.01))])
    assert caught.value.exit_code == 6
    run(state, [Step("harmless", Sabotage(0.0))])


@dataclass(frozen=True)
class Unfit:
    """Leaves the reader of a shrunk weight as it was."""

    def __call__(self, state: State) -> State:
        model = state.model.copy()
        model.constants["a"].values = np.array(model.constants["a"].values)[:3]
        return replace(state, model=model)


def test_a_pass_that_breaks_the_graph_is_named(state: State) -> None:
    with pytest.raises(VerificationError, match="pass 'unfit' made an invalid graph"):
        run(state, [Step("unfit", Unfit())])


def test_a_model_that_never_fitted_is_not_the_fault_of_a_pass() -> None:
    """Its shapes are known only once constants are folded; onnxruntime refuses it as it came, too."""
    proto = net("s = Abs(k) t = Reshape(x, s) y = MatMul(t, w)", inputs="float[4,6] x", w=(5, 3), k=np.array([6, 4]))
    with pytest.raises(InvalidModelError, match=r"cannot be run by onnxruntime|fails at the analysis sizes"):
        run(State(load(proto)), parse("fold_constants"))


@dataclass(frozen=True)
class Crash:
    """Fails as a pass with a mistake fails."""

    def __call__(self, state: State) -> State:
        raise KeyError("oops")


def test_a_crash_names_the_pass(state: State) -> None:
    with pytest.raises(GraphpruneError, match="pass 'crash' failed on model: KeyError: 'oops'") as caught:
        run(state, [Step("crash", Crash())])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_rule_that_forgets_to_pin_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    softmax = load(net("t = Conv(x, a)\nu = Softmax<axis=1>(t)\ny = Conv(u, b)", a=(6, 3, 1, 1), b=(4, 6, 1, 1)))
    monkeypatch.setitem(RULES, "Softmax", Rule(RULES["Relu"].ties))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="after 'cut'"):
        run(State(softmax), parse("magnitude, uniform, cut"))


def test_a_rule_that_forgets_a_tie_is_caught(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    def half(call: Call) -> Ties:
        """Says that the input of a convolution may be cut, but not that its weight goes with it."""
        for said in original(call):
            forgotten = isinstance(said, Tie) and "b[1]" in (str(said.a), str(said.b))
            yield cover(call.x, 1, np.arange(call.x.shape[1])) if forgotten else said

    original = RULES["Conv"].ties
    monkeypatch.setitem(RULES, "Conv", replace(RULES["Conv"], ties=half))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=r"pass 'cut' made an? "):
        run(state, parse("magnitude, uniform, cut"))


def test_an_output_that_nearly_cancels_is_still_judged_fairly() -> None:
    """One number as output, a difference of equals: rounding is large beside it on some inputs, never on all."""
    body = "t = MatMul(x, a)\nr = Relu(t)\ny = MatMul(r, b)"
    rng = np.random.default_rng(0)
    for seed in range(30):
        weights = {"a": rng.standard_normal((64, 256)).astype(np.float32)}
        column = rng.standard_normal((256, 1)).astype(np.float32)
        model = load(net(body, inputs="float[1,64] x", **weights, b=column))
        _, records = run(State(model), parse("magnitude, uniform(ratio=0.1), cut"), seed=seed)
        assert records[-1].agreement is not None
        assert records[-1].agreement.holds


def test_seeds_change_the_inputs_and_nothing_else(state: State) -> None:
    steps = parse("magnitude, uniform, cut")
    first, second = (run(state, steps, seed=s)[0].model for s in (0, 1))
    assert first.proto() == second.proto()


CAPTURING = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] x, bool[1] p) => (float[1,4,8,8] y) {
  t = Conv(x, a)
  u = Conv(t, b)
  k = Add(one, one)
  i = Identity(u)
  y = If (p) <
    then_branch = then () => (float[1,4,8,8] yes) { yes = Add(i, k) },
    else_branch = other () => (float[1,4,8,8] no) { no = Mul(i, k) }
  >
}"""


def test_bodies_still_find_what_they_capture() -> None:
    """Passes fold, bypass and cut around an If whose bodies read values by name."""
    rng = np.random.default_rng(0)
    proto = parser.parse_model(CAPTURING)
    for name, shape in {"a": (6, 3, 1, 1), "b": (4, 6, 1, 1), "one": (1,)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    after, records = run(State(load(proto)), parse(pipeline.preset("magnitude", "uniform(ratio=0.5)")))
    assert [n.op for n in after.model.graph.nodes] == ["Conv", "Conv", "Identity", "If"]
    assert tuple(after.model.constants["a"].shape) == (3, 3, 1, 1)
    assert all(r.agreement is None or r.agreement.holds for r in records)
