"""Compile a model for this machine and run the library, which needs numpy alone: `python examples/compiled.py`.

Writes the folder `small.graphprune`.
"""

import sys
from pathlib import Path

import numpy as np

import graphprune

source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"
result = graphprune.compile(
    source, "small.graphprune", target_macs=0.5, preset="magnitude", timing_seconds=0.5, force=True
)
for name, timing in result.report.latency.items():
    print(f"{name:25} {timing.median_ms:7.3f} ms  x{timing.ratio:.2f}")

model = graphprune.load("small.graphprune")
inputs = {value.name: np.zeros(value.shape, value.dtype) for value in model.manifest.inputs}
for name, output in model(inputs).items():
    print(name, output.shape)
slowest = max(zip(model.profile(inputs), model.manifest.kernels, strict=True), key=lambda pair: pair[0])
print(f"slowest kernel: {slowest[1].name} ({slowest[1].how}), {1e6 * slowest[0]:.0f} us")
