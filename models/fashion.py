"""Fashion-MNIST: its images and labels, and the networks this repository trained on it.

Data: Xiao, Rasul and Vollgraf 2017, Zalando SE, Expat (MIT) licence. `fashion_test_2000.npz` holds the first 2,000
test images and labels, so that evaluation needs no download; training reads Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from models.zoo import HERE, Items, MissingError, ZooModel, one_hot

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FIXTURE = HERE / "fashion_test_2000.npz"


def debian_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28] and labels [n], uint8, of `train` (60,000) or `t10k` (10,000)."""

    def read(name: str, header: int) -> np.ndarray:
        path = DEBIAN / f"{split}-{name}-ubyte.gz"
        if not path.exists():
            raise MissingError(f"{path} is missing: apt-get install dataset-fashion-mnist")
        # A copy, because torch wants memory it may write to.
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)[header:].copy()

    return read("images-idx3", 16).reshape(-1, 28, 28), read("labels-idx1", 8)


def items(images: np.ndarray, labels: np.ndarray) -> Items:
    """Images as the networks take them: [n, 1, 28, 28], grey values divided by 255 and nothing else."""
    return Items(images[:, None].astype(np.float32) / 255, one_hot(labels, 10))


def fixture() -> Items:
    """The committed 2,000 test images."""
    with np.load(FIXTURE) as arrays:
        return items(arrays["images"], arrays["labels"])


def test_set() -> Items:
    """All 10,000 test images, from the Debian package."""
    return items(*debian_split("t10k"))


def unlabelled(count: int) -> np.ndarray:
    """The first training images, as the networks take them."""
    images, labels = debian_split("train")
    return items(images[:count], labels[:count]).inputs


def write_fixture() -> None:
    """Write the first 2,000 test images and labels to `fashion_test_2000.npz`."""
    images, labels = debian_split("t10k")
    np.savez_compressed(FIXTURE, images=images[:2000], labels=labels[:2000])


ZOO = tuple(
    ZooModel(
        name=name,
        path=HERE / f"{name}.onnx",
        build=None,
        parameters=parameters,
        source="trained here",
        licence="Apache-2.0",
        data={"test_2000": fixture, "test": test_set},
        baseline=(baseline,),
        unlabelled=unlabelled,
    )
    for name, parameters, baseline in [
        ("fashion_resnet20", 273_658, 94.20),
        ("fashion_mobilenet", 73_142, 92.10),
        ("fashion_densenet", 78_118, 92.20),
        ("fashion_vgg", 246_274, 94.10),
        ("fashion_vit", 304_906, 91.45),
        ("fashion_moe", 111_658, 87.45),
    ]
)

if __name__ == "__main__":
    write_fixture()
