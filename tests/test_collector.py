"""The search for garbage stops for a while, and goes on whatever happens."""

from __future__ import annotations

import gc

import pytest

from graphprune.collector import paused


def test_no_garbage_is_searched_for_meanwhile() -> None:
    assert gc.isenabled()
    with paused():
        assert not gc.isenabled()
        with paused():  # one inside another leaves it to the outer one
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_search_goes_on_after_an_error() -> None:
    with pytest.raises(KeyError), paused():
        raise KeyError
    assert gc.isenabled()
