"""Parts of reports, as they are and as nobody wants them."""

from __future__ import annotations

from pathlib import Path

from graphprune.budget import Point, Tradeoff
from graphprune.cost import Cost
from graphprune.latency import Timing
from graphprune.report import (
    KernelReport,
    Ratios,
    Report,
    TargetReport,
)

ROOT = Path(__file__).parents[2]
RESNET = ROOT / "models" / "fashion_resnet20.onnx"
EMPTY = Report("m", "", {}, Cost(0, 0, 0), Cost(0, 0, 0), Ratios(1, 1, 1), [], [], [], {})
TIMINGS = {
    "original, onnxruntime": Timing(4.0, 3.5, 5.0, 1.0, 1234, 1),
    "compiled, x86-64": Timing(1.0, 0.9, 1.5, 0.25, 1234, 1),
}
KERNELS = [
    KernelReport("conv", "ours", "3 × 3, tile 8 × 48", ("/0/0.0/Conv", "/1/Relu"), 12.5e-6),
    KernelReport("fused_add", "fallback", "", ("/2/Add",), 50e-6),
]
TARGET = TargetReport(
    "x86-64", 2.5e-7, 1e-4, {"lower": 0.25, "link": 0.125}, 603_959, {"ours": 22, "fallback": 1}, calls=KERNELS
)
TAKEN = Point(0.5, 0.6, 0.125)
TRADEOFF = Tradeoff("macs", TAKEN, [Point(0.2, 0.2, 0.75), Point(0.4, 0.4, 0.5), TAKEN, Point(1.0, 1.0, 0.0)])
EVIL = '<script>alert("1")</script>&amp;\'"><img src=http://example.com/x>{{ 7 * 7 }}'
