"""The structure that all models share: scores, batches, registry and command line."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from graphprune import runtime
from models import catalogue, find
from models.__main__ import main
from models.zoo import CACHE, Items, MissingError, compiled_run, in_batches, one_hot


def test_an_item_counts_when_any_accepted_class_is_among_the_top():
    model = find("efficientnet_lite0")
    accepted = np.zeros((2, 6), bool)
    accepted[0, [2, 3]] = True
    accepted[1, 5] = True
    scores = np.array([[0, 0, 0, 9, 0, 0], [6, 5, 4, 3, 2, 1]], np.float32)
    top1, top5 = model.evaluate(lambda inputs: scores, Items(np.zeros((2, 1)), accepted))
    assert (top1.accuracy, top5.accuracy) == (0.5, 0.5)
    assert top1.count == 2
    assert top1.error == pytest.approx(np.sqrt(0.25 / 2))


def test_batches_are_filled_up_and_cut_back():
    sizes = []

    def double(inputs):
        sizes.append(len(inputs))
        return inputs * 2

    inputs = np.arange(14.0).reshape(7, 2)
    assert np.array_equal(in_batches(double, 3)(inputs), inputs * 2)
    assert sizes == [3, 3, 3]


def test_a_compiled_folder_is_run_at_its_own_batch(tmp_path, monkeypatch):
    class Doubler:
        manifest = SimpleNamespace(
            inputs=[SimpleNamespace(name="image", shape=(2, 3))], outputs=[SimpleNamespace(name="logits", shape=(2, 3))]
        )

        def __call__(self, feeds):
            assert feeds["image"].shape == (2, 3)
            return {"logits": feeds["image"] * 2}

    monkeypatch.setattr(runtime, "load", lambda folder: Doubler())
    inputs = np.arange(9.0).reshape(3, 3)
    assert np.array_equal(compiled_run(tmp_path)(inputs), inputs * 2)


def test_one_hot_accepts_one_class_each():
    assert np.array_equal(one_hot(np.array([1, 0]), 2), [[False, True], [True, False]])


def test_every_model_says_where_it_comes_from_and_third_party_files_stay_in_the_cache():
    for name, model in catalogue().items():
        assert model.name == name
        assert model.source
        assert model.licence
        assert bool(model.baseline) == bool(model.data)
        assert model.measure is not None or len(model.baseline) == (len(model.tops) if model.data else 0)
        assert (model.build is None) != (model.path.parent == CACHE)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(MissingError, match="fashion_resnet20"):
        find("resnet1000")
    with pytest.raises(MissingError, match="only test_2000, test"):
        find("fashion_resnet20").items("train")
    with pytest.raises(MissingError, match="random weights"):
        find("squeezenet").items()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "fashion_resnet20"),
        (["build", "fashion_resnet20"], "is committed"),
        (["evaluate", "fashion_resnet20"], "(2000 items)"),
    ],
)
def test_command_line(arguments, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["models", *arguments])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "squeezenet"],
        ["evaluate", "fashion_resnet20", "--onnx", "nowhere.onnx"],
        ["evaluate", "fashion_resnet20", "--runtime", "compiled"],
    ],
)
def test_what_is_missing_is_one_line(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["models", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert str(end.value.code).startswith("error: ")
    assert "\n" not in str(end.value.code)
