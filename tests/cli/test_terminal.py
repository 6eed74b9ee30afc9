"""What is said where: results on standard output, progress and errors on standard error, as much as asked for."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from graphprune.cli import terminal
from graphprune.cli.tables import RichTable
from graphprune.cli.terminal import Terminal, fail
from graphprune.progress import track


def table() -> RichTable:
    made = RichTable("a")
    made.add_row("cell")
    return made


@pytest.mark.parametrize(
    ("given", "says", "data"),
    [
        ({}, True, False),
        ({"json": True}, False, True),
        ({"quiet": True}, False, False),
        ({"json": True, "quiet": True}, False, True),
    ],
)
def test_results(capsys, given, says, data):
    says_what = Terminal(**given)
    says_what.show(table(), "a line with [bold]no markup[/] and :smile:")
    says_what.data({"x": 1})
    out, err = capsys.readouterr()
    assert err == ""
    assert ("a line with [bold]no markup[/] and :smile:" in out) == ("cell" in out) == says
    assert ('"x": 1' in out) == data
    if data:
        assert json.loads(out) == {"x": 1}


@pytest.mark.parametrize(("verbose", "said"), [(True, "one\ntwo \\x1b[2J\n"), (False, "")])
def test_steps_are_lines_where_there_is_no_terminal(capsys, verbose, said):
    with Terminal(verbose=verbose).progress() as announce:
        announce("one")
        list(track("abc"))
        announce("two \x1b[2J")
    assert capsys.readouterr() == ("", said)


def test_a_bar_on_a_terminal_never_goes_back(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "err", lambda: Console(force_terminal=True, width=80, stderr=True))
    shown: list[float] = []
    update = terminal.Progress.update
    monkeypatch.setattr(
        terminal.Progress, "update", lambda bar, task, **to: (shown.append(to["completed"]), update(bar, task, **to))
    )
    with Terminal().progress() as announce:
        announce("obs(damp=0.01), which has a very long text")
        list(track(range(4)))
        list(track(range(2)))
        announce("cut")
        list(track(range(2)))
    out, err = capsys.readouterr()
    assert out == ""
    assert "obs(damp=0.01), which has a… " in err
    assert shown == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0, 0.5, 1]


def test_errors_are_one_line_and_a_hint(capsys):
    fail("it is\nso\x07", "do [this]")
    assert capsys.readouterr() == ("", "error: it is so\\x07\nhint: do [this]\n")


@pytest.mark.parametrize(("setting", "coloured"), [(None, True), ("1", False)])
def test_no_color(capsys, monkeypatch, setting, coloured):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if setting:
        monkeypatch.setenv("NO_COLOR", setting)
    fail("it is so", "")
    assert ("\x1b[31m" in capsys.readouterr().err) == coloured
