"""Packages that bring rules of their own, through a distribution as pip would install it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from graphprune import api, rules
from graphprune.errors import InvalidModelError, NothingToPruneError, UsageError
from graphprune.model import load, session
from graphprune.plugins import installed
from graphprune.proof import Runner
from tests.law import net

PACKAGE = Path(__file__).parent / "plugin"
GUIDE = Path(__file__).parents[1] / "docs" / "add-an-operator.md"
Install = Callable[..., None]


def forget() -> None:
    """What was found installed may have changed."""
    rules.known.cache_clear()
    session._libraries.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make the metadata of a distribution that offers rules, as ``pip install`` does."""

    def distribution(name: str, group: str = "graphprune.rules", **points: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{operator.replace('__', '.')} = {value}" for operator, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
        forget()

    for folder in (tmp_path, PACKAGE):
        monkeypatch.syspath_prepend(str(folder))
    yield distribution
    forget()
    sys.modules.pop("graphprune_sampling", None)


@pytest.fixture
def sampled() -> ModelProto:
    """Two convolutions around an operator of onnxruntime's own domain, which no rule of graphprune's speaks of."""
    body = "t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)"
    proto = net(body, inputs="float[1,3,8,8] x, float[1,5,5,2] grid", a=(6, 3, 1, 1), b=(4, 6, 1, 1))
    proto.graph.node[1].CopyFrom(onnx.helper.make_node("GridSample", ["t", "grid"], ["u"], domain="com.microsoft"))
    proto.opset_import.add(domain="com.microsoft", version=1)
    proto.graph.output[0].type.tensor_type.shape.ClearField("dim")
    for size in (1, 4, 5, 5):
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    return proto


SAMPLING = {"com__microsoft__GridSample": "graphprune_sampling:SAMPLE"}


def test_without_a_rule_an_operator_pins(sampled: ModelProto) -> None:
    assert not api.inspect(sampled).report.groups
    with pytest.raises(NothingToPruneError):
        api.prune(sampled, ratio=0.5, round_to=1)


def test_a_package_adds_a_rule(install: Install, sampled: ModelProto) -> None:
    install("graphprune-sampling", **SAMPLING)
    report = api.prune(sampled, ratio=0.5, round_to=1, preset="magnitude").report
    assert [(g.name, g.units, g.kept) for g in report.groups] == [("a[0]", 6, 3)]
    assert report.law_error is not None
    assert report.law_error <= 1e-5
    assert rules.known()["Conv"] is rules.RULES["Conv"]


def test_a_rule_of_ours_cannot_be_replaced(install: Install, sampled: ModelProto) -> None:
    install("graphprune-sampling", Conv="graphprune_sampling:SAMPLE")
    with pytest.raises(UsageError, match=r"rule called 'Conv' .*: graphprune itself and graphprune-sampling \(graphp"):
        api.inspect(sampled)


def test_two_packages_for_one_operator_are_both_named(install: Install, sampled: ModelProto) -> None:
    install("graphprune-sampling", **SAMPLING)
    install("another", com__microsoft__GridSample="another:RULE")
    with pytest.raises(UsageError) as caught:
        api.inspect(sampled)
    assert "graphprune-sampling (graphprune_sampling:SAMPLE)" in str(caught.value)
    assert "another (another:RULE)" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("graphprune_sampling:tie", "is no Rule"),
        ("graphprune_sampling:GONE", "cannot be loaded: AttributeError"),
        ("gone:RULE", "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_what_is_no_rule_is_named(install: Install, sampled: ModelProto, value: str, says: str) -> None:
    install("broken", com__example__Odd=value)
    with pytest.raises(UsageError, match=says) as caught:
        api.inspect(sampled)
    assert "com.example.Odd" in str(caught.value)


def test_a_library_of_operators_is_given_to_onnxruntime(install: Install, sampled: ModelProto, tmp_path: Path) -> None:
    """One that is not there: onnxruntime says so, which shows that it was asked to load it."""
    (tmp_path / "with_library.py").write_text(f"LIBRARY = {str(tmp_path / 'gone.so')!r}")
    install("with-library", "graphprune.onnxruntime", sampling="with_library:LIBRARY")
    with pytest.raises(InvalidModelError, match=r"cannot be run by onnxruntime: .*gone\.so"):
        Runner(load(sampled))


def test_nothing_is_installed_under_a_group_nobody_knows() -> None:
    assert installed("graphprune.nothing", "thing") == {}


def test_the_guide_shows_this_package() -> None:
    code = (PACKAGE / "graphprune_sampling.py").read_text().split("\n\n", 1)[1]
    assert code in GUIDE.read_text()
