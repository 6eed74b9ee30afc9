"""Legal widths."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.budget import Widths, weakest, widths
from graphprune.groups import Dependencies, analyse
from graphprune.model import load
from tests.law import net


def of(body: str, **weights: tuple[int, ...]) -> Dependencies:
    return analyse(load(net(body, **weights)))


CHAIN = of("t = Conv(x, a)\ny = Conv(t, b)", a=(20, 3, 1, 1), b=(2, 20, 1, 1))
CONCAT = of(
    "t = Conv(x, a)\ns = Conv(x, d)\nu = Concat<axis=1>(t, s)\ny = Conv(u, b)",
    a=(16, 3, 1, 1),
    d=(24, 3, 1, 1),
    b=(2, 40, 1, 1),
)
ODD = of("t = Conv(x, a)\nu = Concat<axis=1>(x, t)\ny = Conv(u, b)", a=(16, 3, 1, 1), b=(2, 19, 1, 1))
GROUPED = of(
    "t = Conv(x, a)\nu = Conv<group=4>(t, w)\ny = Conv(u, b)", a=(32, 3, 1, 1), w=(32, 8, 1, 1), b=(2, 32, 1, 1)
)


@pytest.mark.parametrize(
    ("multiple", "floor", "counts"),
    [
        (1, 0.0, tuple(range(1, 21))),
        (1, 0.5, tuple(range(10, 21))),
        (8, 0.0, (8, 16, 20)),
        (8, 0.45, (16, 20)),
        (4, 0.0, (4, 8, 12, 16, 20)),
        (64, 0.0, (20,)),
    ],
)
def test_multiples_and_floors(multiple: int, floor: float, counts: tuple[int, ...]) -> None:
    assert widths(CHAIN, CHAIN.groups, multiple, floor)["a[0]"].counts == counts


def test_parts_of_a_concat_are_multiples_each() -> None:
    found = widths(CONCAT, CONCAT.groups, 8)
    assert {n: w.counts for n, w in found.items()} == {"a[0]": (8, 16), "d[0]": (8, 16, 24)}


def test_a_part_that_stays_counts_for_the_whole() -> None:
    only = [g for g in CONCAT.groups if g.name == "a[0]"]
    assert {n: w.counts for n, w in widths(CONCAT, only, 8).items()} == {"a[0]": (8, 16)}
    assert {n: w.counts for n, w in widths(CONCAT, only, 16).items()} == {"a[0]": (16,)}


def test_a_pinned_part_that_is_no_multiple_keeps_all() -> None:
    assert widths(ODD, ODD.groups, 8)["a[0]"].counts == (16,)
    assert widths(ODD, ODD.groups, 1)["a[0]"].counts == tuple(range(1, 17))


def test_units_with_several_positions() -> None:
    """A unit of the grouped convolution owns 4 channels and 1 weight column: both axes must be multiples."""
    found = {n: w.counts for n, w in widths(GROUPED, GROUPED.groups, 4).items()}
    assert found == {"a[0]": (4, 8), "w[0]": (1, 2, 3, 4, 5, 6, 7, 8)}


def test_at_least() -> None:
    legal = Widths((8, 16, 20))
    assert [legal.at_least(n) for n in (0, 8, 9, 17, 99)] == [8, 8, 16, 20, 20]


def test_weakest_units_first() -> None:
    scores = {"g": np.array([3.0, 1.0, 2.0, 1.0]), "h": np.array([1.0, 2.0])}
    drop = weakest(scores, {"g": 2, "h": 2})
    assert {n: u.tolist() for n, u in drop.items()} == {"g": [1, 3]}
