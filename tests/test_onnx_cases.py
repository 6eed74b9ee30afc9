"""onnx's own test case of every operator: it loads, saves and runs as before, or is refused in words."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphprune import api
from graphprune.errors import GraphpruneError, VerificationError
from graphprune.model import load, save
from graphprune.proof import seeded_inputs


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
            None, inputs
        )
    except Exception:
        return None  # not every operator, type or opset of onnx exists in onnxruntime


@pytest.mark.slow
def test_every_operator_of_onnx(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = {case.name: case.model for case in collect_testcases(None)}
    assert len(cases) > 1000
    compared, refusals = 0, []
    for name, proto in cases.items():
        try:
            model = load(proto)
            save(model, tmp_path / "m.onnx")
            inputs = seeded_inputs(model)
        except GraphpruneError:
            continue
        again = onnx.load(tmp_path / "m.onnx")
        assert list(again.graph.output) == list(proto.graph.output), name
        expected = run(proto, inputs)
        if expected is not None:
            for a, b in zip(run(again, inputs) or [], expected, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
            compared += 1
        try:
            api.prune(model, ratio=0.5, round_to=1, preset="magnitude")
        except GraphpruneError as error:
            refusals.append((name, error))
    assert compared > 900
    assert [name for name, error in refusals if type(error) is GraphpruneError] == []  # that would be a crash
    wrong = [str(error) for _, error in refusals if isinstance(error, VerificationError)]
    assert all("off by inf" in text for text in wrong)  # NaN on made-up inputs proves nothing
