"""Pictures show every operator once, below those that feed it, and none on top of another."""

from __future__ import annotations

import itertools
import random

import pytest

from graphprune.report import GroupReport, Member, Role, picture


def group(*after: list[int]) -> GroupReport:
    members = [Member(k, [Role.CARRIES if above else Role.MAKES], above) for k, above in enumerate(after)]
    return GroupReport("w[0]", 8, 8, [], members)


def residual(blocks: int) -> GroupReport:
    """A stem, then blocks of a reader, a maker and the sum of the maker with what came before."""
    after: list[list[int]] = [[]]
    last = 0
    for _ in range(blocks):
        after += [[last], [], [last, len(after) + 1]]
        last = len(after) - 1
    return group(*after)


def tangled(size: int) -> GroupReport:
    choose = random.Random(size)
    return group(*(sorted(choose.sample(range(k), min(k, choose.choice([0, 1, 1, 2, 3])))) for k in range(size)))


@pytest.mark.parametrize(
    "of", [group([]), group([], [0], [1]), group([], [], [0, 1], [0, 2]), residual(9), tangled(40), tangled(120)]
)
def test_operators_stand_apart_below_what_feeds_them(of):
    drawn = picture.layers(of)
    assert [b.member for b in drawn.boxes] == list(of.members)
    place = {b.member.operator: b for b in drawn.boxes}
    for box in drawn.boxes:
        assert picture.WIDTH / 2 <= box.x <= drawn.width - picture.WIDTH / 2
        assert 0 <= box.y <= drawn.height - picture.HEIGHT
        assert all(place[u].y < box.y for u in box.member.after)
    for a, b in itertools.combinations(drawn.boxes, 2):
        assert a.y != b.y or abs(a.x - b.x) >= picture.WIDTH + picture.GAP - 1e-6
    assert len(drawn.lines) == sum(len(m.after) for m in of.members)
    assert drawn.left_out == 0


def test_a_chain_hangs_straight_and_a_maker_stands_right_above_its_reader():
    drawn = picture.layers(group([], [0], [1], [2]))
    assert len({b.x for b in drawn.boxes}) == 1
    stem, reader, maker, total = picture.layers(residual(1)).boxes
    assert maker.y == total.y - picture.HEIGHT - picture.FALL
    assert reader.y == total.y > stem.y


def test_a_large_group_is_drawn_in_part_and_in_time():
    drawn = picture.layers(residual(400))
    assert len(drawn.boxes) == picture.MOST
    assert drawn.left_out == 1201 - picture.MOST


def test_the_overview_has_a_line_for_every_group_in_the_order_of_the_model():
    groups = [
        GroupReport(
            "a", 8, 8, [], [Member(3, [Role.MAKES], []), Member(4, [Role.CARRIES], [3]), Member(7, [Role.READS], [4])]
        ),
        GroupReport("b", 8, 8, [], [Member(7, [Role.MAKES], []), Member(9, [Role.READS], [7])]),
    ]
    drawn = picture.overview(groups, 100)
    assert [w.number for w in drawn.ways] == [1, 2]
    (a, b), (c, d) = ([m.x for m in w.marks] for w in drawn.ways)
    assert a < b == c < d < drawn.width
    assert len(picture.overview(groups, 3).ways) == 1
    assert picture.overview([], 3).ways == []
