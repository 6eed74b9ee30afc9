"""Calibrate on a few unlabelled inputs of one's own, and compare: `python examples/own_data.py`.

The same amount costs less accuracy when some real inputs join the made-up ones. Uses the test images of this
repository: the first 200 to calibrate on, without their labels; of the rest, 500 to count right answers.
"""

from pathlib import Path

import numpy as np

import graphprune
from graphprune.model import Model
from graphprune.proof import Runner

MODELS = Path(__file__).parents[1] / "models"
data = np.load(MODELS / "fashion_test_2000.npz")
images, labels = data["images"][:, None].astype(np.float32) / 255, data["labels"]  # [2000, 1, 28, 28], [2000]


def accuracy(model: Model) -> float:
    """Share of right answers among the images from the 200th to the 700th."""
    run = Runner(model, optimise=True)
    answers = [run({"image": image[None]})["logits"].argmax() for image in images[200:700]]
    return float(np.mean(np.array(answers) == labels[200:700]))


source = MODELS / "fashion_resnet20.onnx"
without = graphprune.prune(source, target_macs=0.25)
with_some = graphprune.prune(source, target_macs=0.25, calibration_data={"image": images[:200]})
print(f"dense                       {accuracy(without.original):.1%}")
print(f"25 % of MACs, no data       {accuracy(without.model):.1%}")
print(f"25 % of MACs, 200 images    {accuracy(with_some.model):.1%}")
