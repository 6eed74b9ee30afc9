"""Networks of other frameworks, as their exporters wrote them: half of every group goes, and the law is proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphprune import api
from graphprune.errors import NothingToPruneError
from graphprune.proof import LAW_RTOL

FOLDER = Path(__file__).parents[2] / "models" / "frameworks"

# Units that are prunable, which are those that a person who reads the script would call so: channels, hidden units,
# attention heads, embedding width. Both directions of a recurrent layer have one width, so that their units go in
# pairs. In keras_gru, where the script has 44, they do because the exporter merged what was equal in both directions:
# the loops read one state of zeros and one bias.
UNITS = {
    "flax_autoencoder": 40,
    "flax_cnn": 56,
    "flax_depthwise": 64,
    "flax_mlp": 56,
    "flax_resnet": 104,
    "flax_transformer": 100,
    "keras_flat": 56,
    "keras_gru": 28,
    "keras_lstm": 72,
    "keras_mobilenet": 144,
    "keras_resnet": 104,
    "keras_transformer": 192,
    "keras_unet": 96,
    "paddle_gru": 28,
    "paddle_lcnet": 104,
    "paddle_lstm": 28,
    "paddle_resnet": 104,
    "paddle_transformer": 168,
    "paddle_unet": 96,
    "sklearn_gradient_boosting": 0,
    "sklearn_logistic_regression": 0,
    "sklearn_mlp_classifier": 56,
    "sklearn_mlp_pipeline": 24,
    "sklearn_mlp_regressor": 48,
    "sklearn_random_forest": 0,
    "sklearn_svc": 0,
}


@pytest.mark.parametrize("name", UNITS)
def test_half_of_every_group_goes(name: str) -> None:
    prunable = UNITS[name]
    path = FOLDER / f"{name}.onnx"
    if not prunable:
        with pytest.raises(NothingToPruneError):
            api.prune(path, ratio=0.5, round_to=1, preset="magnitude")
        found = api.inspect(path).report
        assert not found.groups
        assert all(pin.reason for pin in found.pinned)
        return
    report = api.prune(path, ratio=0.5, round_to=1, preset="magnitude").report
    assert report.before.channels == prunable
    assert report.kept.channels == 0.5
    assert report.kept.parameters < 1
    assert report.law_error is not None
    assert report.law_error <= LAW_RTOL["float32"]


def test_every_committed_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(UNITS)


def test_trees_are_left_alone_for_a_reason() -> None:
    found = api.inspect(FOLDER / "sklearn_random_forest.onnx")
    assert found.model.graph.nodes[0].op == "TreeEnsembleClassifier"
    assert {(pin.tensor, pin.reason) for pin in found.report.pinned} >= {("x", "graph input")}
