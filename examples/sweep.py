"""Prune by several amounts and take the smallest model that is right enough: `python examples/sweep.py [MODEL.onnx]`.

Writes the folder `sweep`: a folder for every point, the table as Markdown, CSV and JSON, and the plot `pareto.svg`. Run
again, it makes only what is missing.
"""

import sys
from pathlib import Path

from graphprune.sweep import sweep

source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"
amounts = [("target_macs", share) for share in (0.9, 0.8, 0.6, 0.4)]

if __name__ == "__main__":
    found = sweep(source, "sweep", amounts=amounts, presets=["magnitude", "l1"], max_error=0.5, timing_seconds=0.5)
    for point in found.points:
        print(f"{point.name:30} {point.kept.macs:6.1%} of the MACs, error {point.error:6.1%} {'*' * point.on_front}")
    print(f"best: {found.best}")
