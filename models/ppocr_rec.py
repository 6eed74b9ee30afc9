"""PP-OCRv4 text recogniser (PaddlePaddle, Apache-2.0): which characters does a line of text hold?

Depthwise convolutions with squeeze-and-excitation, then two attention blocks, then 6,625 classes for every 8 columns
of pixels. Its ONNX file lies inside the wheel of `rapidocr-onnxruntime`, which is downloaded and not installed. All
weights sit in Constant nodes; batch, and width of the input, are open.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.ppocr_cls import drawn, scaled
from models.zoo import CACHE, Run, Score, ZooModel, wheel

WIDTH = 320
NOISE = 60  # largest standard deviation, in grey levels of 255
INSIDE = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"


class Lines(NamedTuple):
    """Pictures of lines of text, float32 [lines, 3, 48, 320], and what they say."""

    inputs: np.ndarray
    texts: list[str]


@dataclass(frozen=True)
class Characters:
    """Share of `count` characters that were read wrong, left out or made up."""

    error: float
    count: int

    def __str__(self) -> str:
        return f"character error {self.error:.2%} ({self.count} characters)"


def build(path: Path) -> None:
    """Extract the ONNX file from the wheel."""
    with zipfile.ZipFile(wheel("rapidocr-onnxruntime==1.4.4")) as archive:
        path.write_bytes(archive.read(INSIDE))


def lines(count: int = 200, seed: int = 0) -> Lines:
    """Rendered lines of text, noisy."""
    rng = np.random.default_rng(seed)
    inputs, texts = [], []
    for _ in range(count):
        text, image = drawn(rng)
        inputs.append(scaled(image, rng, NOISE, WIDTH))
        texts.append(text)
    return Lines(np.stack(inputs), texts)


def alphabet() -> list[str]:
    """The classes: nothing, then the characters that the file names in its metadata, then a space."""
    import onnx

    with zipfile.ZipFile(wheel("rapidocr-onnxruntime==1.4.4")) as archive:
        model = onnx.load_from_string(archive.read(INSIDE))
    listed = next(entry.value for entry in model.metadata_props if entry.key == "character")
    return ["", *listed.splitlines(), " "]


def reading(run: Run, items: Lines) -> list[Score | Characters]:
    """Share of the lines read without a mistake, and edits needed for each character; spaces do not count."""
    classes = alphabet()
    likeliest = run(items.inputs).reshape(len(items.texts), -1, len(classes)).argmax(axis=2)
    wrong = edits = total = 0
    for path, text in zip(likeliest, items.texts, strict=True):
        kept = path[np.append(True, path[1:] != path[:-1])]  # a class that goes on is one character
        found, wanted = ("".join(classes[k] for k in kept).replace(" ", ""), text.replace(" ", ""))
        wrong += found != wanted
        edits += distance(found, wanted)
        total += len(wanted)
    return [Score(1, 1 - wrong / len(items.texts), len(items.texts)), Characters(edits / total, total)]


def distance(a: str, b: str) -> int:
    """Characters to change, leave out or put in to make one text of another (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


ZOO = (
    ZooModel(
        name="ppocr_rec",
        path=CACHE / "ppocr_rec.onnx",
        build=build,
        parameters=2_690_352,
        source="PyPI",
        licence="Apache-2.0",
        data={"lines": lines},
        measure=reading,
        baseline=(95.0, 0.51),
    ),
)
