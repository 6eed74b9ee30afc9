"""Imports go one way only; passes know the core and not each other; heavy packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "graphprune").rglob("*.py"))
PASSES = sorted((ROOT / "passes").glob("*.py"))

# Each layer may import itself and what comes after it, never what comes before.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["sweep"],
    ["api", "benching"],
    ["rounds", "sensitivity"],
    ["presets"],
    ["building"],
    ["options"],
    ["keras", "torch"],
    ["plan", "report"],
    ["clocks"],
    ["execute"],
    ["wheel"],
    ["chromium", "runtime"],
    ["compiler", "pipeline", "fidelity", "aiming"],
    ["trade"],
    ["zeros"],
    ["calibration", "choices", "obs"],
    ["allocation", "layertimes"],
    ["budget"],
    ["proof", "cost"],
    ["state"],
    ["branches", "cut"],
    ["groups"],
    ["coupling"],
    ["calls"],
    ["rules"],
    ["model"],
    ["output", "latency"],
    ["progress"],
    ["collector", "plugins", "typed"],
    ["errors"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# What a pass may build on: everything below the pipeline.
OPEN_TO_PASSES = {name for layer in LAYERS[RANK["pipeline"] + 1 :] for name in layer}
# The modules that may import a package, for those that belong in one place.
HOMES = {
    "PIL": {"calibration"},
    "jinja2": {"report"},
    "keras": {"keras"},
    "ray": {"sweep"},
    "networkx": {"branches", "budget", "coupling", "groups"},
    "safetensors": {"torch"},
    "torch": {"torch"},
    "tvm": {"compiler"},
    "tomli_w": {"cli"},
    "typer": {"cli"},
}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module a file imports, by full name, and whether it is imported as the file itself is."""
    tree = ast.parse(file.read_text(), str(file))
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in lazy
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports by full name only"
            assert node.module is not None
            if node.module == "graphprune":  # from graphprune import api
                yield from ((f"graphprune.{alias.name}", id(node) not in lazy) for alias in node.names)
            else:
                yield node.module, id(node) not in lazy


def layer(file: Path) -> str:
    """The name by which a file of the core stands in the order: its module, or its package."""
    return file.relative_to(ROOT / "graphprune").parts[0].removesuffix(".py")


def own(name: str) -> str | None:
    """``rules`` for ``graphprune.rules.base``, ``None`` for other packages."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "graphprune" and rest else None


@pytest.mark.parametrize("file", CORE, ids=lambda f: str(f.relative_to(ROOT)))
def test_core_imports_only_downwards(file: Path) -> None:
    here = layer(file)
    for name, _ in imports(file):
        there = own(name)
        if there is None or there == here or here == "__init__":
            continue
        assert here in RANK, f"{here} has no place in the order of layers"
        assert there in RANK, f"{file.name} imports {name}, which has no place in the order of layers"
        assert RANK[here] < RANK[there], f"{here} imports {name}, which does not stand below it"


@pytest.mark.parametrize("file", PASSES, ids=lambda f: f.name)
def test_passes_import_the_core_only(file: Path) -> None:
    for name, _ in imports(file):
        assert name.partition(".")[0] not in ("passes", "tests", "models"), f"{file.name} imports {name}"
        if (there := own(name)) is not None:
            assert there in OPEN_TO_PASSES, f"{file.name} imports {name}"


@pytest.mark.parametrize("file", [*CORE, *PASSES], ids=lambda f: str(f.relative_to(ROOT)))
def test_packages_stay_at_home(file: Path) -> None:
    for name, _ in imports(file):
        if homes := HOMES.get(name.partition(".")[0]):
            assert file in CORE, f"{file.name} imports {name}"
            assert layer(file) in homes, f"{file.name} imports {name}"


@pytest.mark.parametrize("file", CORE, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_core_knows_no_pass_and_no_model(file: Path) -> None:
    for name, _ in imports(file):
        assert own(name) != "passes", f"{file.name} imports {name}"
        assert name.partition(".")[0] not in ("passes", "tests", "models"), f"{file.name} imports {name}"


def test_importing_the_command_line_does_not_load_tvm() -> None:
    code = "import sys, graphprune, graphprune.cli.verbs, graphprune.api; print('tvm' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("file", [*CORE, *PASSES], ids=lambda f: str(f.relative_to(ROOT)))
def test_no_file_grows_without_bound(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= 400


@pytest.mark.parametrize("file", PASSES, ids=lambda f: f.name)
def test_every_file_of_passes_is_registered(file: Path) -> None:
    from graphprune.pipeline import available

    if file.stem != "__init__":
        assert file.stem in available()


@pytest.mark.parametrize("file", [*CORE, *PASSES], ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_from_a_file_is_executed(file: Path) -> None:
    """No pickle, no eval: what a model, plan, pipeline or array file holds is data."""
    for name, _ in imports(file):
        assert name.partition(".")[0] not in ("pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"), name
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "torch.load", "os.system"), called
            assert all(k.arg not in ("allow_pickle", "shell") for k in node.keywords), called


def test_every_package_is_installed() -> None:
    """What an editable install finds by itself, others find only if it is listed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "graphprune").rglob("__init__.py")]
    assert {*listed} == {"graphprune.passes", *(".".join(folder.parts) for folder in folders)}
