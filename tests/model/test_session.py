"""Sessions run on the CPU, and on CUDA where a calibration asks for it and onnxruntime can."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import graphprune
from graphprune.errors import UsageError
from graphprune.model import load, session
from graphprune.model.session import CPU, CUDA, on_device, running_on
from graphprune.pipeline import parse, run
from graphprune.proof import Runner, seeded_inputs
from graphprune.state import State
from tests.passes.test_sparsify import three_layers


@pytest.fixture
def asked(monkeypatch):
    """What sessions ask for; CUDA is taken to start, whatever this machine has."""
    found = []

    def recorded(model, options, providers):
        found.append(providers)
        return opened(model, options, providers=[CPU])

    opened = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", recorded)
    monkeypatch.setattr(session, "_starts", lambda: True)
    return found


def test_only_sessions_that_may_rewrite_run_on_cuda_in_full_float32_and_only_within(asked):
    model = load(three_layers())
    with running_on("cuda"):
        assert on_device()
        Runner(model)
        Runner(model, optimise=True)
    Runner(model, optimise=True)
    assert not on_device()
    assert asked == [[CPU], [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), CPU], [CPU]]


def test_models_compute_the_same_with_their_weights_in_the_protobuf(asked):
    model = load(three_layers())
    inputs = seeded_inputs(model)
    wanted = Runner(model, optimise=True)(inputs)
    with running_on("cuda"):
        found = Runner(model, optimise=True)(inputs)
    assert asked[-1][0][0] == CUDA
    for name, values in wanted.items():
        assert np.array_equal(found[name], values)


def test_calibration_runs_where_it_is_told_and_the_plan_says_so(asked):
    plan = graphprune.prune(three_layers(), target_macs=0.7, effort=0, round_to=1, provider="cuda").plan
    assert "calibrate(seed=0, provider='cuda')" in plan.before
    assert any(providers[0][0] == CUDA for providers in asked)
    asked.clear()
    run(State(load(three_layers())), parse("calibrate(count=2)"))
    assert set(map(tuple, asked)) == {(CPU,)}


def test_what_cannot_be_run_on_is_refused_and_changes_nothing(monkeypatch):
    with pytest.raises(UsageError, match="nothing can be run on 'gpu'"), running_on("gpu"):
        pass
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(UsageError, match="onnxruntime cannot run on CUDA here"):
        graphprune.prune(three_layers(), target_macs=0.7, provider="cuda")
    assert not on_device()


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this onnxruntime is built without CUDA")
def test_a_provider_that_falls_back_has_not_started(monkeypatch):
    opened = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda model, options, providers: opened(model, options, providers=[CPU])
    )
    with pytest.raises(UsageError, match="onnxruntime cannot run on CUDA here"), running_on("cuda"):
        pass
