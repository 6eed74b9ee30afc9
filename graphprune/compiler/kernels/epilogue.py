"""What a kernel does to a sum before writing it: add a residual, clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphprune.compiler.kernels.vectors import splat


@dataclass(frozen=True)
class Epilogue:
    """`min(max(sum + residual, low), high)`; a bound that is None is left out."""

    residual: bool = False
    low: float | None = None
    high: float | None = None

    def clip(self, value: Any, lanes: int) -> Any:
        """`value`, a vector of `lanes` float32, within the bounds."""
        if self.low is not None:
            value = tirx.max(value, splat(tirx.const(self.low, "float32"), lanes))
        if self.high is not None:
            value = tirx.min(value, splat(tirx.const(self.high, "float32"), lanes))
        return value
