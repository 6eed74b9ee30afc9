"""Small networks of other frameworks, committed as their own exporters wrote them; see `models/frameworks/`."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from models.roster import Entry
from models.zoo import HERE

_MADE = {
    "keras": "Keras 3.15, TensorFlow 2.21, tf2onnx 1.17",
    "flax": "Flax 0.12, jax2onnx 0.17",
    "paddle": "PaddlePaddle 3.3, paddle2onnx 2.1",
    "sklearn": "scikit-learn 1.9, skl2onnx 1.20",
}
_FAMILIES = {"keras": "TensorFlow/Keras", "flax": "JAX/Flax", "paddle": "PaddlePaddle", "sklearn": "scikit-learn"}


def copied(path: Path, source: Path) -> None:
    """Put the committed file where the roster wants it."""
    shutil.copyfile(source, path)


ENTRIES = tuple(
    Entry(f"{framework}/{name}", _FAMILIES[framework], _MADE[framework], partial(copied, source=source))
    for source in sorted((HERE / "frameworks").glob("*.onnx"))
    for framework, _, name in [source.stem.partition("_")]
)
