"""The table of the accuracy benchmark: what it says of a default that is good enough, and of one that is not."""

from __future__ import annotations

from benchmarks.accuracy import Row
from benchmarks.accuracy_table import markdown


def rows(default: float, rival: float) -> list[Row]:
    return [
        Row("net", "dense", 1.0, 1.0, {"": 0.9}),
        Row("net", "obs", 0.5, 0.49, {"": default}),
        Row("net", "layer_adaptive", 0.5, 0.5, {"": 0.9}),
        Row("net", "magnitude", 0.5, 0.31, {"": rival}),
        Row("net", "onnxsim, l2", 0.5, 0.0, {}, why="not reached"),
    ]


def test_cells_say_where_a_model_ended_and_what_was_not_made() -> None:
    text = markdown(rows(0.88, 0.8))
    assert "| **obs** | 88.0 |" in text
    assert "| magnitude | 80.0 (31%) |" in text
    assert "| onnxsim, l2 | – |" in text
    assert "## net, dense 90.0" in text


def test_half_the_drop_of_the_best_rival_is_the_rule_and_ours_is_no_rival() -> None:
    assert "at every target" in markdown(rows(0.86, 0.8))
    assert "50%: 6.0 against 10.0 of magnitude" in markdown(rows(0.84, 0.8))


def test_the_default_with_inputs_is_no_rival_but_obspa_is() -> None:
    more = [Row("net", "obs, 64 inputs", 0.5, 0.5, {"": 0.9}), Row("net", "obspa", 0.5, 0.5, {"": 0.85})]
    assert "50%: 4.0 against 5.0 of obspa" in markdown([*rows(0.86, 0.8), *more])


def test_without_a_rival_nothing_is_claimed() -> None:
    text = markdown([row for row in rows(0.86, 0.8) if row.criterion in ("dense", "obs")])
    assert "No other criterion has been measured." in text
    assert "at every target" not in text


def test_cells_have_the_mean_of_the_seeds_and_how_far_they_are_apart() -> None:
    more = [Row("net", "obs", 0.5, 0.47, {"": 0.84}, seed=1), Row("net", "obs", 0.5, 0.0, {}, why="failed", seed=2)]
    text = markdown([*rows(0.88, 0.8), *more])
    assert "| **obs** | 86.0 ± 2.0 |" in text
    assert "at every target" in text
