"""Everything public is documented, the reference builds without a warning, and the guides say what is true."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import graphprune
from docs.__main__ import MODULES, build
from graphprune import errors

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def own(module) -> dict[str, object]:
    """The public classes and functions that a module defines or offers under ``__all__``."""
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    for label, value in own(module).items():
        doc = inspect.getdoc(value) or ""
        assert doc, f"{name}.{label}"
        assert not doc.startswith(f"{label}("), f"{name}.{label} has no docstring of its own"
        if inspect.isclass(value):
            for part, member in vars(value).items():
                method = inspect.isfunction(member) and member.__qualname__.startswith(value.__qualname__)
                if not part.startswith("_") and (method or isinstance(member, property)):
                    assert inspect.getdoc(member), f"{name}.{label}.{part}"


@pytest.mark.parametrize("name", [n for n in graphprune.__all__ if inspect.isfunction(getattr(graphprune, n))])
def test_the_verbs_document_every_argument_and_error(name):
    function = getattr(graphprune, name)
    doc = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not parameter.empty
        assert re.search(rf"^    {parameter.name}: ", doc, re.MULTILINE), f"{name}: {parameter.name}"
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    assert "Raises:" in doc


def test_the_reference_builds_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="needs pdoc, of the extra `docs`")
    page = build(tmp_path).read_text("utf-8")
    assert all(f'id="{name}"' in page for name in graphprune.__all__)
    assert "<strong>target_macs:</strong>" in page
    assert len(list(tmp_path.rglob("*.html"))) > len(MODULES)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda g: str(g.relative_to(ROOT)))
def test_links_lead_somewhere_and_code_is_python(guide):
    text = guide.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (guide.parent / target).exists(), target
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(code)
    for path in re.findall(r"`((?:examples|docs|graphprune|passes|benchmarks|tests)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).exists(), path


def test_the_guide_lists_every_exit_code():
    text = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d+) \|.*\| `(\w+)` \|$", text, re.MULTILINE))
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.GraphpruneError)]
    assert rows == {**{str(c.exit_code): c.__name__ for c in classes}, "130": "KeyboardInterrupt"}


def test_the_pass_of_the_guide_works(monkeypatch):
    """The code of docs/add-a-pass.md scores every group of a real model."""
    guide = (ROOT / "docs" / "add-a-pass.md").read_text("utf-8")
    module = ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)  # where dataclasses look for it
    space = vars(module)
    exec(re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1], space)
    state = graphprune.inspect(ROOT / "models" / "fashion_resnet20.onnx")
    scores = space["Largest"]()(space["State"](state.model)).scores
    assert len(scores) == 12
    assert all((values > 0).all() for values in scores.values())
