"""The layers that the solver is timed on."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.solve import layer, main
from graphprune.obs import remove_all


@pytest.mark.parametrize("columns", [1, 9])
def test_a_layer_has_units_of_so_many_columns_and_correlated_inputs(columns):
    problem = layer(8, columns)
    assert problem.weights.shape == (8, 8 * columns + 1)
    assert problem.columns.tolist() == np.arange(8 * columns).reshape(8, columns).tolist()
    off = problem.second[:-1, :-1][~np.eye(8 * columns, dtype=bool)]
    assert 0.5 < off.mean() < 1.5  # all share one source of variance 1
    order, added = remove_all([problem])
    assert sorted(order) == list(range(8))
    assert (added > 0).all()


def test_the_table_has_a_row_for_each_width():
    import typer

    app = typer.Typer()
    app.command()(main)
    told = CliRunner().invoke(app, ["--widths", "8", "--widths", "16", "--repeats", "1"]).stdout
    assert [line.split("│")[1:3] for line in told.splitlines() if line.startswith("│")] == [
        [" 8     ", " 8       "],
        [" 16    ", " 16      "],
    ]
