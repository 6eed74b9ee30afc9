"""Prune a model, look at what was found and done, and run the result: `python examples/prune.py [MODEL.onnx]`.

Writes `small.onnx`, `small.plan.json` and `small.html` into the current folder.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

import graphprune
from graphprune.report import html

source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"

# What could be pruned? Groups of units that live and die together, and a reason for every other axis.
found = graphprune.inspect(source)
for group in found.dependencies.groups:
    print(f"{group.name}: {group.size} units over {len(group.labels)} axes")
print(f"{len(found.dependencies.pinned)} axes are pinned, the first because: {found.dependencies.pinned[0].why}")

# Keep half of the multiply-accumulates, every width a multiple of 8. Nothing is written yet.
result = graphprune.prune(source, target_macs=0.5, round_to=8, command="examples/prune.py")
kept = result.report.kept
print(f"kept {kept.channels:.0%} of the units, {kept.parameters:.0%} of the parameters, {kept.macs:.0%} of the MACs")
print(
    f"the cut equals zeroing to {result.report.law_error:.0e}; the outputs moved by {result.report.fidelity.error:.0%}"
)

result.save("small.onnx")
Path("small.html").write_text(html.render(result.report), "utf-8")

# The file is plain ONNX with the interface it had.
session = onnxruntime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
image = np.zeros([n if isinstance(n, int) else 1 for n in shape], np.float32)
print(f"output shape {session.run(None, {name: image})[0].shape}")
