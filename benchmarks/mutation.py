"""How many wrong rules the tests notice: every rule is made wrong in many small ways, and its tiny nets run each time.

    python -m benchmarks.mutation [--module convolution ...] [--sample 200] [--record FILE]

A mutant changes one place of one file of ``graphprune/rules``: a comparison, an operation, a constant, a condition, a
statement left out (DeMillo, Lipton & Sayward 1978). It is killed if a test fails or takes too long; asked are the tests
that run the function that is changed. Survivors are printed, as they were and as they are. Every mutant lives in a
process of its own, forked from one that has the tests loaded; nothing is written but the record.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib.abc
import importlib.util
import json
import os
import pickle
import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
RULES = ROOT / "graphprune" / "rules"
SECONDS = 120  # of processor time for the tests of one mutant
NO_TESTS = 5  # what pytest says where none is left
NOTICED = 1  # exit statuses above this say which net noticed, 1 that something else did
SHOWN = 100  # characters of a line that survives, around what is changed

# What holds a file to account: the tiny nets of its own and of others, opened and as they are, then more.
NETS = {
    "axiswise": ["routing"],
    "fused": ["routing"],
    "indexing": ["routing"],
    "movement": ["routing"],
    "spelled": ["normalization"],
}
EVERYTHING = ["tests/rules", "tests/test_coupling.py"]
LAYERS = ["tests/rules/test_layer.py"]
ALSO = {
    "__init__": ["tests/rules/test_rules.py", "tests/test_plugins.py"],
    "base": EVERYTHING,
    "convolution": LAYERS,
    "layer": LAYERS,
    "linear": LAYERS,
    "normalization": ["tests/rules/test_spelled.py"],
}
OPENED = "tests/rules/test_opened.py::test_rules_say_what_they_said_and_the_law_holds_of_every_axis[{}]"

# Too much holds on to what these define: everything is imported anew with them.
_IMPORTED_BY_ALL = frozenset(["__init__", "base", "layer"])

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATIONS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_SILENT = (ast.Assert, ast.Import, ast.ImportFrom, ast.Raise, ast.JoinedStr)


def mutants(source: str) -> Iterator[tuple[int, str]]:
    """Every mutant of a module: the line it changes, and the whole source."""
    tree = ast.parse(source)
    kept = pickle.dumps(tree)
    for change in _changes(tree):
        changed = pickle.loads(kept)
        # The copy is walked as the original was, so that equal numbers are equal places.
        number, mutate = change
        node = list(ast.walk(changed))[number]
        line = getattr(node, "lineno", 0) or node.target.lineno  # a comprehension has none of its own
        mutate(node)
        yield line, ast.unparse(ast.fix_missing_locations(changed))


def _changes(tree: ast.Module) -> Iterator[tuple[int, Callable[[ast.AST], None]]]:
    """Which node, by its place in ``ast.walk``, and what to do to it."""
    outside = {id(inner) for node in ast.walk(tree) for part in _not_computed(node) for inner in ast.walk(part)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in outside:
            continue
        match node:
            case ast.Compare():
                for k, op in enumerate(node.ops):
                    yield number, lambda n, k=k, op=op: n.ops.__setitem__(k, _COMPARISONS[type(op)]())
            case ast.BinOp() if type(node.op) in _OPERATIONS:
                yield number, lambda n: setattr(n, "op", _OPERATIONS[type(n.op)]())
            case ast.BoolOp():
                other = ast.And if isinstance(node.op, ast.Or) else ast.Or
                yield number, lambda n, other=other: setattr(n, "op", other())
            case ast.UnaryOp(op=ast.USub() | ast.Not()):
                yield number, lambda n: setattr(n, "op", ast.UAdd())
            case ast.If() | ast.IfExp():
                yield number, lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
            case ast.comprehension(ifs=[_, *_]):
                yield number, lambda n: n.ifs.clear()
            case ast.Constant(value=bool()):
                yield number, lambda n: setattr(n, "value", not n.value)
            case ast.Constant(value=int() | float()):
                yield number, lambda n: setattr(n, "value", n.value + 1)
            case ast.Constant(value=str()) if node.value.isidentifier():
                yield number, lambda n: setattr(n, "value", n.value + "_")
            case ast.Expr(value=ast.Yield() | ast.YieldFrom()):
                yield number, _left_out
            case ast.Expr(value=ast.Call()):
                yield number, _left_out


def _left_out(node: ast.AST) -> None:
    assert isinstance(node, ast.Expr)
    # A generator that yields nothing is still one.
    node.value = ast.YieldFrom(ast.Tuple([], ast.Load())) if not isinstance(node.value, ast.Call) else ast.Constant(0)


def _not_computed(node: ast.AST) -> Iterator[ast.AST]:
    """Parts of a node that declare or explain: annotations, decorators, docstrings, assertions, messages."""
    for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if part is not None:
            yield part
    yield from getattr(node, "decorator_list", ())
    if isinstance(node, ast.keyword) and node.arg == "strict":  # what is asserted of a ``zip``
        yield node
    exports = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    if exports or isinstance(node, _SILENT):
        yield node
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        yield body[0]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, source: str, path: Path) -> None:
        self.name, self.code, self.path = name, compile(source, str(path), "exec"), path

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The module in question, no other."""
        if name != self.name:
            return None
        spec = importlib.util.spec_from_loader(name, self, is_package=self.path.stem == "__init__")
        if spec is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(self.path.parent))
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the other source."""
        exec(self.code, module.__dict__)


Net = tuple[str, int]
"""A domain, and which of its tiny nets."""

Functions = dict[int, str]
"""For every line of a file, the function or method that it is part of, if any."""


def _functions_of(tree: ast.Module | ast.ClassDef) -> Functions:
    found: Functions = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {line: f"{node.name}.{name}" for line, name in _functions_of(node).items()}
        elif isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found |= dict.fromkeys(range(first, (node.end_lineno or first) + 1), node.name)
    return found


class Watch:
    """Which functions of a file are called meanwhile, by name, and for how long it is watched."""

    def __init__(self, path: Path, functions: Functions) -> None:
        self.path, self.functions, self.called, self.seconds = str(path), functions, set[str](), 0.0

    def __enter__(self) -> Watch:
        self._start = time.process_time()
        threading.setprofile(self._seen)
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        self.seconds = time.process_time() - self._start

    def _seen(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == self.path:
            self.called.add(self.functions.get(frame.f_code.co_firstlineno, ""))


class Judges:
    """Tiny nets and tests that hold a file to account, and which of its functions each of them calls."""

    def __init__(self, path: Path, tests: list[str], nets: list[Net]) -> None:
        self.path, self.tests, self.nets = path, tests, nets
        self.functions = _functions_of(ast.parse(path.read_text()))
        self.called: dict[str | Net, set[str]] = {}
        self.seconds: Counter[str] = Counter()

    def watch(self) -> bool:
        """Ask all, of the file as it is, in another process; whether they pass."""
        out, into = os.pipe()
        if child := os.fork():
            os.close(into)
            with os.fdopen(out, "rb") as pipe:
                self.called, self.seconds, passed = pickle.load(pipe)
            os.waitpid(child, 0)
            return bool(passed)
        passed = True
        for net in self.nets:
            with Watch(self.path, self.functions) as seen:
                passed = passed and _as_written(net)
            self.called[net] = seen.called
        passed = passed and _run(self.tests, plugin=self) == 0
        with os.fdopen(into, "wb") as pipe:
            pickle.dump((self.called, self.seconds, passed), pipe)
        os._exit(0)

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool:
        """Watch a test."""
        from _pytest.runner import runtestprotocol

        with Watch(self.path, self.functions) as seen:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        self.called[item.nodeid] = seen.called
        self.seconds[str(item.path)] += seen.seconds
        return True

    def of(self, line: int) -> tuple[list[Net], Chosen]:
        """The nets and the tests that call the function a line is part of; all, for a line of no function."""
        function = self.functions.get(line)
        named = {judge for judge, called in self.called.items() if function is None or function in called}
        return [net for net in self.nets if net in named], Chosen(named, self.seconds)


class Chosen:
    """Some tests, those of quick files first."""

    def __init__(self, named: set[str | Net], seconds: Counter[str]) -> None:
        self.named, self.seconds = named, seconds

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the others."""
        kept = [item for item in items if item.nodeid in self.named]
        items[:] = sorted(kept, key=lambda item: self.seconds[str(item.path)])


def survives(judges: Judges, line: int, source: str) -> bool:
    """Whether the tests pass with ``source`` in place of a file of the package; in a process of its own.

    What the rules say of the tiny nets is looked at first, as that takes less than to start the tests. A net that
    notices is put first: it is likely to notice the next mutant, which is near.
    """
    path = judges.path
    nets, chosen = judges.of(line)
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code > NOTICED:
            judges.nets.remove(net := nets[code - NOTICED - 1])
            judges.nets.insert(0, net)
        return code == 0
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # ends a mutant that loops
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    try:
        if path.stem in _IMPORTED_BY_ALL:
            for loaded in [name for name in sys.modules if name.partition(".")[0] in ("graphprune", "tests")]:
                del sys.modules[loaded]
            sys.meta_path.insert(0, _Finder(name, source, path))
        else:
            _change(importlib.import_module(name), source, path)
        for place, net in enumerate(nets):
            if not _as_written(net):
                os._exit(min(NOTICED + 1 + place, 255))
    except BaseException:  # a table that is wrong as a whole, or a test that fails
        os._exit(1)
    os._exit(int(_run(judges.tests, plugin=chosen) not in (0, NO_TESTS)))


def _as_written(net: Net) -> bool:
    """Whether the rules say of a tiny net what they said."""
    domain, number = net
    opened = importlib.import_module("tests.rules.test_opened")
    nets = importlib.import_module(f"tests.rules.test_{domain}")
    try:
        return bool(opened.answers(nets, number)[0] == opened.expected(nets)[number])
    except Exception:  # a wrong rule may fail anywhere
        return False


def _nets(domains: Sequence[str]) -> list[Net]:
    """Every net of some domains."""
    opened = importlib.import_module("tests.rules.test_opened")
    modules = {domain: importlib.import_module(f"tests.rules.test_{domain}") for domain in domains}
    return [(domain, number) for domain, nets in modules.items() for number in range(len(opened.expected(nets)))]


def _run(tests: list[str], *options: str, plugin: object = None) -> int:
    import pytest

    plugins = [] if plugin is None else [plugin]
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return int(pytest.main([*quiet, *options, *tests], plugins=plugins))


def _change(module: ModuleType, source: str, path: Path) -> None:
    """Let a loaded module be what another source makes of it, for those too who have imported from it."""
    new: dict[str, Any] = {key: module.__dict__[key] for key in ("__name__", "__file__", "__package__")}
    exec(compile(source, str(path), "exec"), new)
    rules = getattr(module, "RULES", {})
    for name, value in list(module.__dict__.items()):
        if name == "__builtins__" or name not in new:
            continue
        for old, made in _functions(value, new[name], module.__name__):
            old.__code__, old.__defaults__, old.__kwdefaults__ = made.__code__, made.__defaults__, made.__kwdefaults__
        if not callable(value):
            module.__dict__[name] = new[name]
    table = importlib.import_module("graphprune.rules").RULES
    changed = new.get("RULES", {})
    for operator in rules.keys() | changed.keys():
        if table.get(operator) is rules.get(operator):  # no other file's
            table.pop(operator, None)
            if operator in changed:
                table[operator] = changed[operator]


def _functions(old: object, new: object, module: str) -> Iterator[tuple[FunctionType, FunctionType]]:
    """A function of a module and what takes its place, or those of a class."""
    if isinstance(old, FunctionType) and isinstance(new, FunctionType) and old.__module__ == module:
        yield old, new
    elif isinstance(old, type) and old.__module__ == module:
        for name, value in vars(old).items():
            yield from _functions(value, vars(new).get(name), module)


def judges_of(module: str) -> tuple[list[str], list[str]]:
    """The domains whose opened nets are looked at first, and the tests after them."""
    written = sorted(file.stem for file in (ROOT / "tests/golden/rules").glob("*.txt"))
    if module in _IMPORTED_BY_ALL:
        return written if ALSO[module] is EVERYTHING else [], ALSO[module]
    domains = [name for name in (module, *NETS.get(module, ())) if name in written]
    nets = [f"tests/rules/test_{name}.py" for name in dict.fromkeys([module, *domains])]
    tests = [*map(OPENED.format, domains), *(file for file in nets if Path(file).exists()), *ALSO.get(module, [])]
    return domains, [*tests, "tests/rules/test_rules.py"]


def main() -> None:
    """Mutate, run, and print the share killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in RULES.glob("*.py"))
    parser.add_argument("--module", nargs="*", default=names, choices=names, help="files of graphprune/rules")
    parser.add_argument("--sample", type=int, default=0, help="this many mutants of each file, drawn at random")
    parser.add_argument("--record", type=Path, help="a file that grows; what it says is killed is not tried again")
    options = parser.parse_args()

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["OMP_NUM_THREADS"] = "1"
    for package in ("hypothesis", "networkx", "onnx.reference", "onnx_graphsurgeon", "onnxruntime", "pytest"):
        importlib.import_module(package)
    record = options.record
    lines = record.read_text().splitlines() if record and record.exists() else []
    dead = {tuple(mutant) for survived, *mutant in map(json.loads, lines) if not survived}

    total = killed = 0
    for module in options.module:
        path = RULES / f"{module}.py"
        domains, tests = judges_of(module)
        source = ast.unparse(ast.parse(path.read_text()))
        _run(tests, "--collect-only")  # loads what every mutant's process needs
        nets = _nets(domains)
        if path.stem not in _IMPORTED_BY_ALL:
            all(map(_as_written, nets))  # makes the nets, and measures them
        # What a process has left over, another must not tidy up: sessions wait there for threads that it does not have.
        gc.collect()
        gc.freeze()
        judges = Judges(path, tests, nets)
        if not judges.watch():
            sys.exit(f"{module}: the tests fail as it is")
        drawn, alive = _drawn(path, source, options.sample), 0
        for line, mutant, named in drawn:
            if named in dead:
                continue
            survived = survives(judges, line, mutant)
            alive += survived
            if record:
                with record.open("a") as file:
                    print(json.dumps([survived, *named]), file=file)
            if survived:
                _, was, now, _ = named
                place = next((k for k, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), 0)
                shown = slice(max(0, place - SHOWN // 2), place + SHOWN // 2)
                print(f"survives: {module}.py:{line}", was[shown], now[shown], sep="\n    ", flush=True)
        print(f"{module}: {len(drawn) - alive} of {len(drawn)} mutants killed", flush=True)
        total, killed = total + len(drawn), killed + len(drawn) - alive
    print(f"all: {killed} of {total} mutants killed, {killed / max(total, 1):.1%}")


Named = tuple[str, str, str, int]
"""A mutant as a record knows it: its file, the line as it was and is, and how many that look alike came before."""


def _drawn(path: Path, source: str, sample: int) -> list[tuple[int, str, Named]]:
    """The mutants of a file, or a sample of them."""
    alike: Counter[tuple[str, str]] = Counter()
    every = []
    for line, mutant in mutants(path.read_text()):
        pairs = zip(source.splitlines(), mutant.splitlines(), strict=True)
        change = next((was.strip(), now.strip()) for was, now in pairs if was != now)
        every.append((line, mutant, (path.stem, *change, alike[change])))
        alike[change] += 1
    return random.Random(0).sample(every, sample) if 0 < sample < len(every) else every


if __name__ == "__main__":
    main()
