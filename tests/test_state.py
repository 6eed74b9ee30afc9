"""What the user leaves out, and analyses made once per model."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from graphprune.model import load
from graphprune.state import State
from tests.law import net

MODEL = load(net("t = Conv(x, a)\nu = Conv(t, d)\ny = Conv(u, b)", a=(6, 3, 1, 1), d=(5, 6, 1, 1), b=(2, 5, 1, 1)))


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ((), (), ["a[0]", "d[0]"]),
        ((r"^a\[",), (), ["a[0]"]),
        ((), (r"^u\[",), ["a[0]"]),
        (("^d", "^a"), (), ["a[0]", "d[0]"]),
        (("^d",), ("nowhere", "^b"), ["a[0]"]),
        (("nowhere",), (), []),
        ((), (".",), []),
    ],
)
def test_selection(include: tuple[str, ...], exclude: tuple[str, ...], names: list[str]) -> None:
    assert [g.name for g in State(MODEL, include=include, exclude=exclude).groups] == names


def test_the_analysis_is_made_once_per_model() -> None:
    state = State(MODEL)
    assert state.dependencies is replace(state, include=("a",)).dependencies
    assert state.dependencies is not State(MODEL.copy()).dependencies


def test_a_state_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        State(MODEL).drop = {}  # type: ignore[misc]
