from __future__ import annotations

import msgspec
import pytest

import graphprune
from graphprune.report import Report
from tests.report.samples import RESNET, TARGET, TIMINGS, TRADEOFF


@pytest.fixture(scope="module")
def report() -> Report:
    found = graphprune.prune(RESNET, ratio=0.5, preset="magnitude", exclude=r"^5\.first", command="a command").report
    return msgspec.structs.replace(found, targets=[TARGET], latency=TIMINGS, tradeoff=TRADEOFF)
