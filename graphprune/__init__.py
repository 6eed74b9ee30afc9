"""graphprune: an ONNX graph-level pruning compiler.

The functions below are the whole library for most users; they are imported on first use, so that ``graphprune.load``
on a device needs neither onnx nor TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.api import Inspection, Result, compile, inspect, prune, verify
    from graphprune.benching import bench
    from graphprune.errors import GraphpruneError
    from graphprune.plan import Plan
    from graphprune.runtime import load

_HOME = {
    "GraphpruneError": "graphprune.errors",
    "Inspection": "graphprune.api",
    "Plan": "graphprune.plan",
    "Result": "graphprune.api",
    "bench": "graphprune.benching",
    "compile": "graphprune.api",
    "inspect": "graphprune.api",
    "load": "graphprune.runtime",
    "prune": "graphprune.api",
    "verify": "graphprune.api",
}

__all__ = ["GraphpruneError", "Inspection", "Plan", "Result", "bench", "compile", "inspect", "load", "prune", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graphprune' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
