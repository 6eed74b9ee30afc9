"""Magika's classifier (Google, Apache-2.0): of which of 214 kinds is a file, by its first and last 1,024 bytes?

From JAX by way of TensorFlow: a one-hot embedding spelled out, two layers of normalisation, one convolution over 512
positions and the greatest value of each channel. Its ONNX file lies inside the wheel of `magika`, which is downloaded
and not installed.

The items are files inside other wheels of PyPI, told apart by their extensions: a name that several kinds share allows
all of them. Templates, which are two kinds at once, and plain text, which may be any, are left out.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from models.zoo import CACHE, Items, ZooModel, wheel

WHEEL = "magika==1.0.3"
INSIDE = "magika/models/standard_v3_3"
SOURCES = (
    "Django==5.1.4",
    "bokeh==3.6.2",
    "sphinx==8.1.3",
    "notebook==7.3.2",
    "nbconvert==7.16.5",
    "docutils==0.21.2",
)
EACH = 25  # files of an extension, at most
LEAST = 64  # bytes of a file; less is hard to tell apart
UNTOLD = {"txt", "j2", "jinja"}  # extensions that do not tell a kind; templates are also in folders named so
BYTES, BLOCK, NOTHING = 1024, 4096, 256  # at each end, looked at for white space to leave out; what fills up


def build(path: Path) -> None:
    """Extract the ONNX file from the wheel."""
    with zipfile.ZipFile(wheel(WHEEL)) as archive:
        path.write_bytes(archive.read(f"{INSIDE}/model.onnx"))


def files() -> Items:
    """Files of some wheels, at most EACH of an extension, drawn with seed 0."""
    with zipfile.ZipFile(wheel(WHEEL)) as archive:
        classes = json.loads(archive.read(f"{INSIDE}/config.min.json"))["target_labels_space"]
        kinds = json.loads(archive.read("magika/config/content_types_kb.min.json"))
    named: dict[str, list[int]] = defaultdict(list)  # an extension → the classes that it may be
    for number, label in enumerate(classes):
        for extension in kinds[label]["extensions"]:
            named[extension].append(number)
    found: dict[str, list[tuple[zipfile.ZipFile, str]]] = defaultdict(list)
    for requirement in SOURCES:
        archive = zipfile.ZipFile(wheel(requirement))
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            extension = entry.filename.rpartition(".")[2].lower()
            told = extension in named.keys() - UNTOLD and not any(t in entry.filename for t in ("template", "jinja"))
            if told and entry.file_size >= LEAST:
                found[extension].append((archive, entry.filename))
    rng = np.random.default_rng(0)
    inputs, accepted = [], []
    for extension, places in sorted(found.items()):
        for k in sorted(rng.permutation(len(places))[:EACH]):
            archive, name = places[k]
            inputs.append(ends(archive.read(name)))
            accepted.append(np.isin(np.arange(len(classes)), named[extension]))
    return Items(np.stack(inputs), np.stack(accepted))


def ends(content: bytes) -> np.ndarray:
    """The first and the last bytes of a file as the network takes them, int32 [2048]."""
    first = content[:BLOCK].lstrip()[:BYTES]
    last = content[-BLOCK:].rstrip()[-BYTES:]
    filled = np.full(2 * BYTES, NOTHING, np.int32)
    filled[: len(first)] = np.frombuffer(first, np.uint8)
    filled[len(filled) - len(last) :] = np.frombuffer(last, np.uint8)
    return filled


ZOO = (
    ZooModel(
        name="magika",
        path=CACHE / "magika.onnx",
        build=build,
        parameters=784_223,
        source="PyPI",
        licence="Apache-2.0",
        data={"files": files},
        baseline=(90.77,),
    ),
)
