"""Shared set-up of the test suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `tests.law` and `models`, which are not installed
pytest.register_assert_rewrite("tests.law")

# Derandomised: a red run is red for everybody. `HYPOTHESIS_PROFILE=slow` searches wider, with fresh randomness.
_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=40, suppress_health_check=_CHECKS)
settings.register_profile("slow", deadline=None, max_examples=1500, suppress_health_check=_CHECKS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    """Leave the slow tests to those who ask with ``-m``."""
    config.option.markexpr = config.option.markexpr or "not slow"
