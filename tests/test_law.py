"""The law on real networks: half of the units of every group go."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from onnx import ModelProto

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.pipeline import BEFORE, parse, run
from graphprune.state import State
from tests.law import agree, halves

ROOT = Path(__file__).parent.parent
COMMITTED = sorted((ROOT / "models").glob("*.onnx"))
# How many units may go: a rule that starts to pin shows here.
SMALL = {"squeezenet": 2944, "shufflenet": 247}
LARGE = {
    "bvlc_alexnet": 8704,
    "densenet121": 10240,
    "inception_v1": 7024,
    "inception_v2": 9952,
    "resnet50": 11456,
    "vgg19": 13696,
    "zfnet512": 6656,
}
FETCHED = {"ppocr_cls": 1338, "efficientnet_lite0": 11024, "efficientnet_lite0_traced": 11024}


def hold(source: object) -> int:
    """Both sides of the law on a model as the presets prepare it; the number of units it has."""
    state, _ = run(State(load(source)), parse(BEFORE))  # type: ignore[arg-type]
    groups = analyse(state.model).groups
    agreement = agree(state.model, groups, halves(groups))
    assert agreement.holds, agreement
    assert not agreement.silent
    return sum(g.size for g in groups)


def classic(name: str) -> ModelProto:
    """A network of the `onnx` package with seeded weights."""
    try:
        classics = importlib.import_module("models.classics")
    except ImportError as error:
        pytest.skip(f"models.classics cannot be imported: {error}")
    return classics.classic(name, 0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_models(path: Path) -> None:
    assert hold(path) >= 100


@pytest.mark.parametrize("name", SMALL)
def test_small_classics(name: str) -> None:
    assert hold(classic(name)) == SMALL[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_classics(name: str) -> None:
    assert hold(classic(name)) == LARGE[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", FETCHED)
def test_fetched_models(name: str) -> None:
    path = ROOT / "models" / "cache" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} has not been fetched; see models/README.md")
    assert hold(path) == FETCHED[name]
