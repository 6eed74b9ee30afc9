"""The law on real networks: half of the units of every group go."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from graphprune.groups import analyse
from graphprune.model import load
from graphprune.pipeline import BEFORE, parse, run
from graphprune.state import State
from tests.law import agree, halves

ROOT = Path(__file__).parent.parent
COMMITTED = sorted((ROOT / "models").glob("*.onnx"))
FETCHED = ["ppocr_cls", "efficientnet_lite0", "efficientnet_lite0_traced"]
SMALL = ["squeezenet", "shufflenet"]
LARGE = ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "vgg19", "zfnet512"]


def hold(source: object, share: float = 0.5) -> None:
    """Both sides of the law on a model as the presets prepare it; fails if there is next to nothing to cut."""
    state, _ = run(State(load(source)), parse(BEFORE))  # type: ignore[arg-type]
    groups = analyse(state.model).groups
    assert sum(g.size for g in groups) >= 20
    agreement = agree(state.model, groups, halves(groups, share=share))
    assert agreement.holds, agreement
    assert not agreement.silent


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_models(path: Path) -> None:
    hold(path)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_classics(name: str) -> None:
    try:
        classics = importlib.import_module("models.classics")
    except ImportError as error:
        pytest.skip(f"models.classics cannot be imported: {error}")
    hold(classics.classic(name, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", FETCHED)
def test_fetched_models(name: str) -> None:
    path = ROOT / "models" / "cache" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} has not been fetched; see models/README.md")
    hold(path)
