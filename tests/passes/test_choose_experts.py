"""Experts chosen by what their router gives them, removed, planned, replayed, and together with neurons."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import ModelProto

import graphprune
from graphprune import plan
from graphprune.calibration.activations import assorted, split
from graphprune.cut import cut, gone
from graphprune.errors import NothingToPruneError, TargetNotReachedError, UsageError, VerificationError
from graphprune.model import load
from graphprune.pipeline import Step, parse, run
from graphprune.proof import Runner
from graphprune.state import State
from passes.choose_experts import ChooseExperts, selection
from passes.cut import Cut
from tests.law import net
from tests.rules.test_movement import ints


def mixtures(*biases: list[float]) -> ModelProto:
    """Layers of eight experts, two of them chosen for each token, by routers with these biases."""
    lines, weights = ["t0 = MatMul(x, a)"], {"a": (3, 8), "b": (8, 2), "k": ints(2), "n": ints(5, 8), "two": ints(2)}
    for m, bias in enumerate(biases):
        weights |= {f"g{m}": 0.1 * np.ones((8, 8), np.float32), f"c{m}": np.array(bias, np.float32)}
        weights |= {f"up{m}": (8, 8, 16), f"down{m}": (8, 16, 8)}
        lines += [f"r{m} = MatMul(t{m}, g{m})", f"l{m} = Add(r{m}, c{m})", f"v{m}, i{m} = TopK(l{m}, k)"]
        lines += [f"p{m} = Softmax(v{m})", f"z{m} = ConstantOfShape(n)"]
        lines += [f"s{m} = ScatterElements<axis=1>(z{m}, i{m}, p{m})", f"h{m} = MatMul(t{m}, up{m})"]
        lines += [f"w{m} = Relu(h{m})", f"e{m} = MatMul(w{m}, down{m})"]
        lines += [f'u{m} = Einsum<equation="te,etd->td">(s{m}, e{m})', f"t{m + 1} = Add(t{m}, u{m})"]
    lines.append(f"y = MatMul(t{len(biases)}, b)")
    return net("\n".join(lines), inputs="float[5,3] x", **weights)


RISING = [0.0, 1, 2, 3, 4, 5, 6, 7]
TWO = mixtures(RISING, RISING[::-1])


def test_those_asked_least_go() -> None:
    state = ChooseExperts(count=2, by="selection")(State(load(TWO)))
    assert {name: units.tolist() for name, units in state.drop.items()} == {"g0[1]": [0, 1], "g1[1]": [2, 3]}
    shares = selection(np.array([RISING]), 2)[0]
    assert shares[:6].tolist() == [0] * 6
    assert np.allclose(shares[6:], [1 / (1 + np.e), np.e / (1 + np.e)])
    assert np.allclose(selection(np.zeros((1, 4)), 0), 0.25)
    assert state.data["notes"] == (
        "of g0[1], 2 experts removed: [0, 1]",
        "of g1[1], 2 experts removed: [2, 3]",
    )


def test_scores_are_what_the_router_gives() -> None:
    """All logits move alike with a token, so that the biases alone decide: the last two get everything."""
    result = graphprune.prune(TWO, remove_experts=0.75)
    assert {n: tuple(c.shape) for n, c in result.model.constants.items() if n in ("up0", "g0", "c0", "down1")} == {
        "g0": (8, 2),
        "c0": (2,),
        "up0": (2, 8, 16),
        "down1": (2, 16, 8),
    }
    assert np.allclose(result.model.constants["c0"].values, [6, 7])
    assert np.allclose(result.model.constants["c1"].values, [7, 6])
    assert result.report.fidelity.error < 1e-6  # the six others never got a token
    (law,) = (step for step in result.report.steps if step.law)
    assert (law.tolerance, law.layers_tolerance) == (1e-5, 1e-3)


def test_a_plan_replays_to_the_same_bytes_and_is_verified(tmp_path: Path) -> None:
    proto = mixtures([0.0] * 8, [0.0] * 8)
    first = graphprune.prune(proto, remove_experts=2, ratio=0.25, round_to=1, preset="magnitude")
    first.save(tmp_path / "first.onnx")
    made = plan.read(tmp_path / "first.plan.json")
    graphprune.prune(proto, plan=made).save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()
    assert graphprune.verify(proto, tmp_path / "first.onnx", made).holds
    assert first.model.constants["up0"].shape == (6, 6, 12)
    rows = [
        msgspec.structs.replace(r, removed=list(range(7))) if r.size == 8 and r.axis != 1 else r for r in made.removals
    ]
    with pytest.raises(UsageError, match="the plan leaves only 1 of"):
        graphprune.prune(proto, plan=msgspec.structs.replace(made, removals=rows))


def test_the_outputs_tell_who_is_missed() -> None:
    """The first to go is the one without which the outputs move least, as cutting each of them in turn has it."""
    model = load(mixtures([0.0] * 8))
    spread = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    model.constants["g0"].values = spread  # so that each expert is asked by some of the tokens
    state = State(model)
    (group,) = state.experts
    inputs = assorted(model, 12, 0, (-2.0, 2.0))
    reference = np.concatenate([Runner(model)(one)["y"] for one in split(model, inputs, 1)])

    def moved(unit: int) -> float:
        small = cut(model, gone([group], {group.name: np.array([unit])}))
        outputs = np.concatenate([Runner(small)(one)["y"] for one in split(model, inputs, 1)])
        return float(np.square(outputs - reference).sum())

    errors = [moved(unit) for unit in range(8)]
    assert ChooseExperts(count=1)(state).drop == {group.name: np.argmin(errors)}
    assert min(errors) < 0.5 * max(errors)


def test_experts_go_only_where_they_are_asked_for() -> None:
    result = graphprune.prune(TWO, ratio=0.5, round_to=1, preset="magnitude")
    assert result.model.constants["up0"].shape == (8, 4, 8)
    assert [group.experts for group in result.report.groups].count(True) == 2


def test_what_experts_save_counts_for_a_target() -> None:
    """Half of the experts are nearly half of the parameters, so that fewer neurons are left to go."""
    proto = mixtures([0.0] * 8, [0.0] * 8)
    options = {"target_params": 0.5, "round_to": 1, "preset": "magnitude"}
    with_experts = graphprune.prune(proto, remove_experts=0.5, **options)
    without = graphprune.prune(proto, **options)
    for result in (with_experts, without):
        assert 0.45 < result.report.kept.parameters <= 0.5
    kept = [sum(g.kept for g in r.report.groups if not g.experts) for r in (with_experts, without)]
    assert kept[0] > 1.3 * kept[1]


def test_a_wrong_removal_of_an_expert_breaks_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that keeps the columns of other experts than those that stay computes something else."""
    from graphprune import cut as right

    def wrong(model: object, going: dict) -> object:
        small = right.cut(model, going)  # type: ignore[arg-type]
        small.constants["c0"].values = small.constants["c0"].values[::-1].copy()
        return small

    monkeypatch.setattr("passes.cut.cut", wrong)
    state = ChooseExperts(count=2)(State(load(mixtures(RISING))))
    with pytest.raises(VerificationError, match="after 'cut'"):
        run(state, [Step("cut", Cut())])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"remove_experts": 7}, TargetNotReachedError, "has 8 experts, of which 2 are chosen at a time: 7 cannot go"),
        ({"remove_experts": 1.0}, TargetNotReachedError, "8 cannot go"),
        ({"remove_experts": 1.5}, UsageError, "1.5 experts cannot be removed"),
        ({"passes": "choose_experts(by='size')"}, UsageError, "experts are not chosen by 'size'"),
        ({"remove_experts": 1, "exclude": "up"}, NothingToPruneError, "has no experts to remove"),
        ({"remove_experts": 1, "passes": "clean"}, UsageError, "remove_experts exclude each other"),
    ],
)
def test_errors(options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        graphprune.prune(TWO, **options)


def test_a_pipeline_in_text() -> None:
    state, records = run(State(load(TWO)), parse("choose_experts(count=0.25), cut, clean"))
    assert state.model.constants["up1"].shape == (6, 8, 16)
    assert records[1].law
