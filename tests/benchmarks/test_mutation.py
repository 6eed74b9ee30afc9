"""Making rules wrong, to see whether the tests notice."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks.mutation import RULES, Judges, mutants, survives

SOURCE = '''"""A docstring."""


def rule(call: int = 2) -> bool:
    """Another."""
    assert call == 3, f"{call}"
    if call < 4 and not call % 5:
        yield "name"
    return [k for k in "no name" if k]
'''
MUTANTS = """
def rule(call: int=3) -> bool:
if not (call < 4 and (not call % 5)):
if call < 4 or not call % 5:
yield from ()
if call <= 4 and (not call % 5):
if call < 4 and +(call % 5):
return [k for k in 'no name']
if call < 5 and (not call % 5):
if call < 4 and (not call // 5):
yield 'name_'
if call < 4 and (not call % 6):
"""


def test_every_mutant_changes_one_place_that_runs() -> None:
    original = ast.unparse(ast.parse(SOURCE)).splitlines()
    changed = []
    for line, mutant in mutants(SOURCE):
        [(was, now)] = [(a, b) for a, b in zip(original, mutant.splitlines(), strict=True) if a != b]
        changed.append(now.strip())
        assert SOURCE.splitlines()[line - 1].split()[0] == was.split()[0]
    assert sorted(changed) == sorted(MUTANTS.strip().splitlines())


def test_a_test_that_looks_kills_and_one_that_does_not_lets_live(tmp_path: Path) -> None:
    path = RULES / "recurrent.py"
    wrong = path.read_text().replace('["GRU"', '["XXX"')
    test = tmp_path / "test_it.py"
    judges = Judges(path, [str(test)], [])
    test.write_text("from graphprune.rules import RULES\n\n\ndef test_it():\n    assert 'GRU' in RULES\n")
    assert judges.watch()
    assert survives(judges, 0, path.read_text())
    assert not survives(judges, 0, wrong)
    test.write_text("from graphprune.rules import RULES\n\n\ndef test_it():\n    assert 'Conv' in RULES\n")
    assert survives(judges, 0, wrong)


def test_the_net_that_notices_is_asked_first_of_the_next_mutant() -> None:
    path = RULES / "recurrent.py"
    judges = Judges(path, [], [("movement", 0), ("recurrent", 0), ("recurrent", 1)])
    judges.called = {net: set() for net in judges.nets}
    assert not survives(judges, 0, path.read_text().replace('"LSTM"', '"XXX"'))
    assert judges.nets == [("recurrent", 1), ("movement", 0), ("recurrent", 0)]


def test_those_that_call_the_function_are_asked(tmp_path: Path) -> None:
    path = RULES / "base.py"
    test = tmp_path / "test_it.py"
    judges = Judges(path, [str(test)], [("convolution", 1)])
    test.write_text(
        "from graphprune.rules import base\n\n\ndef test_one():\n    assert base.normal_axis(-1, 3) == 2\n\n\n"
        "def test_other():\n    assert str(base.Dim('x', 1)) == 'x[1]'\n"
    )
    assert judges.watch()
    lines = {name: line for line, name in judges.functions.items()}
    asked = {}
    for name in ("normal_axis", "Dim.__str__", "scaled"):
        nets, chosen = judges.of(lines[name])
        asked[name] = nets, {judge.rpartition("::")[2] for judge in chosen.named if isinstance(judge, str)}
    assert asked == {
        "normal_axis": (judges.nets, {"test_one"}),
        "Dim.__str__": (judges.nets, {"test_other"}),
        "scaled": ([], set()),
    }
