"""A pass of one's own among those of graphprune: `python examples/own_pass.py [MODEL.onnx]`.

Scores every unit by a blend of the L1 and L2 sizes of its weights, drops a quarter of each group, and writes
`small.onnx`. The runner proves every step, ours included: a broken pass ends the run with an error that names it.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphprune.groups import Group
from graphprune.model import load, save
from graphprune.pipeline import Step, parse, run
from graphprune.state import State


@dataclass(frozen=True)
class Blend:
    """Weighted geometric mean of the mean |w| and the root mean square of the weights that a unit owns.

    Attributes:
        mix: 0 for the mean alone, 1 for the root mean square alone.
    """

    mix: float = 0.5

    def __call__(self, state: State) -> State:
        """Set ``scores``: float64 [units] for every group, the smaller the more expendable."""

        def score(group: Group) -> np.ndarray:
            count = group.parameters(state.model)
            mean = group.power(state.model, 1) / count
            return mean ** (1 - self.mix) * np.sqrt(group.power(state.model, 2) / count) ** self.mix

        return replace(state, scores={group.name: score(group) for group in state.groups})


source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "models" / "fashion_resnet20.onnx"
steps = [
    *parse("fold_shapes, fold_constants"),
    Step("blend(mix=0.3)", Blend(mix=0.3)),
    *parse("uniform(ratio=0.25, multiple=4), cut, fold_batchnorm, clean"),
]
state, records = run(State(load(source)), steps)
for record in records:
    proof = f"off by {record.agreement.error:.0e}, allowed {record.agreement.rtol:.0e}" if record.agreement else "-"
    print(f"{record.text:35} {proof}")
save(state.model, "small.onnx")
print("wrote small.onnx")
