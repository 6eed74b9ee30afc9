"""A latency is met with channels, with zeros or with both: whatever moves the outputs least."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune import api, rounds
from graphprune.clocks import Clock
from graphprune.errors import TargetNotReachedError, UsageError
from graphprune.model import Model, load
from graphprune.pipeline import Record
from graphprune.state import State
from tests.passes.test_sparsify import three_layers


def clock(worth: float) -> Clock:
    """Time goes with the weights of the two convolutions, zeros saving a share ``worth`` of what they could."""

    def profile(model: Model) -> tuple[float, dict[str, float]]:
        times = {}
        for node in model.graph.nodes:
            if node.op == "Conv":
                weight = np.asarray(node.inputs[1].values)
                times[node.name] = (np.count_nonzero(weight) * worth + weight.size * (1 - worth)) / 1000
        return sum(times.values()), times

    def compare(original: Model, model: Model) -> tuple[float, float]:
        before, after = (profile(m)[0] for m in (original, model))
        return before, after / before

    return Clock(profile, compare, skips_zeros=True)


def met(worth: float, **options: object) -> api.Result:
    proto = three_layers()
    for node in proto.graph.node:
        node.name = node.output[0]
    full = {**{name: o.default for name, (_, o) in api_options().items()}, "effort": 0, "round_to": 1, **options}
    return api._pruned(load(proto), clock(worth), "", lambda text: None, full)  # type: ignore[arg-type]


def api_options() -> dict:
    from graphprune.options import PruneOptions, declared

    return declared(PruneOptions)


def test_the_way_with_least_error_is_taken_and_the_others_are_told_of() -> None:
    result = met(1.0, target_latency=0.6)
    (note,) = [note for note in result.report.notes if "latency is met with" in note]
    assert "zeros " in note
    assert "channels " in note
    assert "both " in note
    errors = {part.rsplit(" ", 1)[0]: float(part.rsplit(" ", 1)[1][:-1]) for part in note.split(": ")[1].split(", ")}
    taken = note.split("met with ")[1].split(",")[0]
    assert errors[taken] == min(errors.values())
    assert clock(1.0).compare(result.original, result.model)[1] <= 0.61


def test_zeros_that_save_nothing_are_not_used() -> None:
    result = met(0.0, target_latency=0.6)
    assert any("met with channels, by" in note and "zeros miss it" in note for note in result.report.notes)
    assert not result.report.sparsity


def test_zeros_can_be_forbidden() -> None:
    result = met(1.0, target_latency=0.6, sparsity=0.0)
    assert not any("met with" in note for note in result.report.notes)
    assert not result.report.sparsity


@pytest.mark.parametrize("by", ["channels", "zeros", "both"])
def test_the_means_can_be_chosen(by: str) -> None:
    result = met(1.0, target_latency=0.6, latency_by=by)
    assert clock(1.0).compare(result.original, result.model)[1] <= 0.61
    (note,) = [note for note in result.report.notes if note.startswith("latency: ")]
    assert note.endswith("were asked for")
    assert (result.report.kept.channels < 1) == (by != "zeros")
    assert (result.report.sparsity > 0) == (by != "channels")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_latency": 0.6, "latency_by": "luck"}, "not met by 'luck'"),
        ({"target_macs": 0.6, "latency_by": "zeros"}, "without a latency"),
        ({"target_latency": 0.6, "latency_by": "zeros", "sparsity": 0.0}, "channels only"),
        ({"target_latency": 0.6, "latency_by": "both", "preset": "magnitude"}, "channels only"),
    ],
)
def test_means_that_make_no_sense_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        met(1.0, **options)


def test_onnxruntime_skips_no_zeros() -> None:
    with pytest.raises(UsageError, match="nothing faster in onnxruntime"):
        api.prune(three_layers(), target_latency=0.6, latency_by="zeros", effort=0)


def test_steps_that_are_the_same_are_not_run_again() -> None:
    """Another target begins at the choice: what the channels' errors are is known."""
    known: list[Record] = []
    model = load(three_layers())
    ran: list[str] = []
    for share in (0.8, 0.6):
        ran.clear()
        options = {**{name: o.default for name, (_, o) in api_options().items()}, "effort": 0, "round_to": 1}
        full = {**options, "target_latency": share, "latency_by": "channels"}
        start = State(model, data={"profile": clock(1.0).profile}) if not known else known[0].before
        rounds.met(model, start, clock(1.0), ran.append, full, known)  # type: ignore[arg-type]
    assert ran[0].startswith("allocate(")


def test_what_no_way_meets_is_said() -> None:
    with pytest.raises(TargetNotReachedError):
        met(1.0, target_latency=0.001)


def test_both_remove_fewer_channels_where_zeros_are_cheap() -> None:
    """Zeros that save as much as they could take more of the latency than zeros that save less."""
    whole, half = (met(worth, target_latency=0.6, latency_by="both").report.kept.channels for worth in (1.0, 0.4))
    assert whole > half
