"""The roster's machinery on tiny graphs, and a few of its entries."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from msgspec.structs import replace
from onnx import numpy_helper

from graphprune.model import load
from graphprune.state import State
from models.roster import Entry, roster
from models.roster.measure import ON_REQUEST, coverage, measure
from models.roster.runs import rows_in, run
from models.roster.table import line, markdown

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[n, 3, 8, 8] image) => (float[n, 5] scores) {
    a = Conv <pads = [1, 1, 1, 1]> (image, first)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1], group = 16> (b, depthwise)
    d = GlobalAveragePool (c)
    e = Flatten (d)
    f = MatMul (e, hidden)
    g = Softmax (f)
    h = MatMul (g, last)
    scores = Softmax (h)
}"""
WEIGHTS = {"first": (16, 3, 3, 3), "depthwise": (16, 1, 3, 3), "hidden": (16, 12), "last": (12, 5)}


def tiny() -> onnx.ModelProto:
    """A convolution that can be cut, a hidden layer that a softmax shares out, and class scores."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in WEIGHTS.items()
    )
    return model


def write(path: Path) -> None:
    onnx.save(tiny(), path)


def fail(path: Path) -> None:
    raise ValueError("no such operator")


def die(path: Path) -> None:
    os._exit(3)


def entry(name: str, build=write) -> Entry:
    return Entry(name, "tiny", "onnx.parser", build, {"n": 2})


def test_coverage_counts_what_makes_channels_and_says_why_the_rest_stays():
    found = coverage(State(load(tiny())))
    assert found["units"] == 16 + 12  # no depthwise filters, no class scores
    assert found["prunable"] == 16
    assert found["held"] == {ON_REQUEST: 12}


def test_half_of_every_group_goes(tmp_path):
    row = measure(entry("tiny/one"), tmp_path)
    before = sum(np.prod(shape) for shape in WEIGHTS.values())
    gone = 8 * (3 * 9 + 9 + 12)
    assert row.outcome == "pruned"
    assert row.parameters == before
    assert row.parameters_removed == pytest.approx(gone / before, abs=1e-6)
    assert row.error is not None
    assert row.error <= row.tolerance == 1e-5
    assert row.nodes == 9
    assert not list(tmp_path.iterdir())


def test_a_graph_stays_where_wanted_and_is_found_again(tmp_path):
    measure(entry("tiny/one"), tmp_path, keep=True)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny--one.onnx"]
    assert measure(entry("tiny/one", fail), tmp_path).outcome == "pruned"


def test_nothing_that_goes_wrong_stops_the_others(tmp_path):
    entries = [entry("tiny/dead", die), entry("tiny/bad", fail), entry("tiny/good")]
    rows = {row.name: row for row in run(entries, tmp_path, tmp_path / "rows", jobs=1, limit=60)}
    assert {name: row.outcome for name, row in rows.items()} == {
        "tiny/dead": "crashed",
        "tiny/bad": "not made",
        "tiny/good": "pruned",
    }
    assert rows["tiny/dead"].detail == "its process ended with 3"
    assert "no such operator" in rows["tiny/bad"].detail
    assert rows_in(tmp_path / "rows") == rows


def test_the_latest_row_of_a_name_counts(tmp_path):
    for build in (fail, write):
        list(run([entry("tiny/one", build)], tmp_path, tmp_path / "rows", jobs=1, limit=60))
    assert rows_in(tmp_path / "rows")["tiny/one"].outcome == "pruned"


def test_the_table_shows_every_graph_and_every_family(tmp_path):
    rows = [measure(entry("tiny/good"), tmp_path), measure(entry("tiny/bad", fail), tmp_path)]
    text = markdown([replace(rows[0], state="1234567"), rows[1]], ["tiny/good", "tiny/bad", "tiny/other"])
    assert "2 of 3 graphs: 1 pruned, 1 not made.\nStates: 1 1234567, 1 unknown." in text
    assert text.endswith("## Not run\n\ntiny/other\n")
    assert "| tiny | 2 | 1 | 57 % |" in text
    assert ON_REQUEST in text
    assert line(rows[1]).startswith("tiny/bad: not made: ValueError: no such operator")


def test_names_are_unique_and_listing_needs_no_framework():
    entries = roster()
    assert all(name == entry.name for name, entry in entries.items())
    assert all(isinstance(entry.build, partial) for entry in entries.values())
