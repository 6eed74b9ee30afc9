from __future__ import annotations

import pytest
from onnx import ModelProto

from tests.law import net
from tests.model.files import SMALL, WEIGHTS


@pytest.fixture
def small() -> ModelProto:
    return net(SMALL, **WEIGHTS)
