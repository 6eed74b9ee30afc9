"""The nine classic image networks that the `onnx` package carries."""

from __future__ import annotations

from functools import partial

from models.classics import PARAMETERS, build
from models.roster import Entry

ENTRIES = tuple(
    Entry(f"onnx/{name}", "onnx package", "light graph of the onnx package, opset 9", partial(build, name=name))
    for name in PARAMETERS
)
