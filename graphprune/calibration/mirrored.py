"""Mirror images of the pictures given, for models to which left and right are one."""

from __future__ import annotations

import numpy as np

from graphprune.calibration.activations import Inputs, is_open, run
from graphprune.calibration.images import channels_first
from graphprune.calibration.importance import answers
from graphprune.model import Model

MOST = 256  # pictures beyond which there are enough
LOOKED_AT = 16  # pictures that show whether the answers are alike
ALIKE = 0.2  # of how much answers vary, squared: 0.01 to 0.06 after training with mirror images, above 1 for text


def with_mirror_images(model: Model, given: Inputs) -> Inputs:
    """Real pictures, and behind them the same with left and right exchanged, if the model answers alike to both.

    Then it was trained on such pictures too, and few become twice as many, unlabelled as they are. An odd number gets
    one less than that, so that a picture and its mirror image are both at even or both at odd places: passes that try
    on one half of the pictures what they found on the other must not have seen it.

    Args:
        model: as ``batched`` makes it.
        given: arrays by name, [items, ...]; an image has four axes and 1 or 3 channels, first or last.

    Returns:
        What was given where it is no few pictures, or where the answers differ.
    """
    name, *others = model.inputs
    x = given.get(name)
    first = None if x is None else channels_first(x.shape)
    if x is None or first is None or others or len(x) > MOST or not is_open(model):
        return given
    turned = np.flip(x, 3 if first else 2)
    compared = [answer for answer in answers(model) if model.shapes.get(answer)]
    seen, mirrored = (_of(model, compared, {name: some[:LOOKED_AT]}) for some in (x, turned))
    for answer in compared:
        a, b = seen[answer], mirrored[answer]
        if not np.square(a - b).sum() < ALIKE * np.square(a - a.mean(axis=0)).sum():
            return given
    return {**given, name: np.concatenate([x, turned[len(x) % 2 :]])} if compared else given


def _of(model: Model, wanted: list[str], inputs: Inputs) -> dict[str, np.ndarray]:
    """The values of tensors, float64, for all inputs together."""
    parts = list(run(model, wanted, inputs))
    return {name: np.concatenate([values[name] for values in parts]).astype(np.float64) for name in wanted}
