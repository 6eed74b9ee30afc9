"""The view before deciding: curves that rise from nothing, planted units that cost nothing, a page with a plot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import graphprune
from graphprune.report import html
from tests.law import net


def test_curves_rise_and_duplicates_are_free() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 3, 3, 3)).astype(np.float32), rng.standard_normal((4, 8, 3, 3)).astype(np.float32)
    a[6] = a[1]
    b[:, 4] = 0
    report = graphprune.inspect(net("t = Conv(x, a)\nu = Relu(t)\ny = Conv(u, b)", a=a, b=b), sensitivity=True).report
    (group,) = report.groups
    widths, errors = zip(*group.curve, strict=True)
    assert widths == tuple(range(1, 9))
    assert errors[-1] == 0
    assert all(wide <= narrow for narrow, wide in pairwise(errors))
    assert errors[-3] < 0.01 < errors[-4]  # two units are nearly free, the third is not
    assert report.tradeoff is not None
    assert report.tradeoff.chosen.macs == 1
    assert all(p.macs < q.macs and p.error > q.error for p, q in pairwise(report.tradeoff.points))
    page = html.render(report)
    assert "predicted error" in page
    assert "as it is" in page


def test_nothing_is_run_unless_asked() -> None:
    report = graphprune.inspect(net("t = Conv(x, a)\ny = Conv(t, b)", a=(4, 3, 1, 1), b=(2, 4, 1, 1))).report
    assert report.tradeoff is None
    assert not report.groups[0].curve
