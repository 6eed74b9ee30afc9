"""Pictures as a model takes them: a folder of files read, and the scale of an image input found out.

What a model wants its pixels to be is written nowhere in its graph. But the first BatchNormalization knows what real
images gave there, and the usual ways to scale pixels differ by far more than pictures do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.calibration.activations import Inputs, batched, checked, read_inputs
from graphprune.calibration.statistics import Statistics, in_graph, observed, tolerance
from graphprune.errors import UsageError
from graphprune.model import Model
from graphprune.proof import seeded_inputs

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MOST = 256  # pictures of a folder, spread evenly over it by name
LOOKED_AT = 8  # pictures that show which scale it is


@dataclass(frozen=True)
class Scale:
    """How a pixel of 0 to 1 becomes a number of the input: ``(pixel - mean) / std``, for every channel or for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_range(cls, spread: tuple[float, float]) -> Scale:
        """Black is the lower end, white the upper one."""
        low, high = spread
        return cls((-low / (high - low),), (1 / (high - low),))

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest number that a pixel becomes."""
        ends = [((edge - m) / s) for m, s in zip(self.mean, self.std, strict=True) for edge in (0.0, 1.0)]
        return min(ends), max(ends)

    def __str__(self) -> str:
        if len(self.mean) == 1:
            return "from {:g} to {:g}".format(*self.spread)
        mean, std = (",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"less {mean}, divided by {std}"


USUAL = {
    "0 to 1": Scale.of_range((0.0, 1.0)),
    "-1 to 1": Scale.of_range((-1.0, 1.0)),
    "0 to 255": Scale.of_range((0.0, 255.0)),
    "ImageNet": Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def channels_first(shape: Sequence[int | None]) -> bool | None:
    """Whether the channels of images, 1 or 3, come before rows and columns; ``None`` where no images have the shape."""
    return shape[1] in (1, 3) if len(shape) == 4 and {shape[1], shape[3]} & {1, 3} else None


def scale_of(
    mean: Sequence[float] | None, std: Sequence[float] | None, spread: tuple[float, float] | None
) -> Scale | None:
    """The scale that options ask for, or ``None`` where they leave it open."""
    if mean is None and std is None:
        return None if spread is None else Scale.of_range(spread)
    if spread is not None:
        raise UsageError("a range and a mean or std exclude each other", "give --input-range, or --mean and --std")
    mean, std = mean or (0.0,), std or (1.0,)
    if min(std) <= 0:
        raise UsageError(
            f"a std of {min(std):g} is not above 0", "pixels are 0 to 1 here; ImageNet has 0.229,0.224,0.225"
        )
    channels = max(len(mean), len(std))
    if {len(mean), len(std)} - {1, channels}:
        raise UsageError(f"{len(mean)} means and {len(std)} stds do not pair up", "give one, or one for each channel")
    return Scale(tuple(mean) * (channels // len(mean)), tuple(std) * (channels // len(std)))


def real_inputs(
    data: Inputs | str | os.PathLike[str] | None, model: Model, scale: Scale | None = None, name: str = "real inputs"
) -> dict[str, Any]:
    """What passes get to know of real inputs: arrays, the path of an npz file or of a folder of pictures, or none.

    Args:
        data: what was given.
        model: at the sizes wanted.
        scale: of the pixels of pictures, see ``read_images``.
        name: of the option, for errors about arrays that are from no file.

    Returns:
        ``inputs``, the arrays by name, and ``notes``, how pictures were scaled; nothing where there are none.

    Raises:
        UsageError: nothing that can be read, or nothing that the model takes, see ``checked``.
    """
    if data is None:
        return {}
    if not isinstance(data, str | os.PathLike):
        return {"inputs": checked(data, model, name)}
    if not Path(data).is_dir():
        return {"inputs": checked(read_inputs(data), model, str(data))}
    arrays, scale = read_images(data, model, scale)
    count = len(next(iter(arrays.values())))
    return {"inputs": arrays, "notes": (f"the pixels of {count} pictures were scaled {scale}",)}


def read_images(
    folder: str | os.PathLike[str], model: Model, scale: Scale | None = None, statistics: Statistics | None = None
) -> tuple[Inputs, Scale]:
    """The pictures of a folder and its sub-folders as the model's only image input takes them.

    Each is scaled until its shorter side fits and cut to the input's shape around its centre; what is transparent is
    white. The layout is that of the input's shape: channels first or last, 1 for grey or 3 for colours.

    Args:
        folder: where they lie; at most ``MOST`` of them are read.
        model: at the sizes wanted.
        scale: of the pixels; by default the usual one that fits the model's BatchNorm statistics best.
        statistics: those no longer in the graph.

    Returns:
        [pictures, ...] by the input's name, and the scale used.

    Raises:
        UsageError: no pictures, or no input for them.
    """
    name, first = _image_input(model)
    shape = model.input_shapes[name]
    height, width, channels = (shape[2], shape[3], shape[1]) if first else (shape[1], shape[2], shape[3])
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{folder} holds no pictures", f"it may hold {', '.join(sorted(SUFFIXES))}")
    files = [files[k] for k in np.unique(np.linspace(0, len(files) - 1, min(MOST, len(files))).round().astype(int))]
    pixels = np.stack([_pixels(file, height, width, channels) for file in files])
    dtype = seeded_inputs(model)[name].dtype
    if dtype.kind in "iu":
        scale = scale or USUAL["0 to 255"]
    elif scale is None:
        usual = [u for u in USUAL.values() if len(u.mean) in (1, channels)]
        few = pixels[:: max(1, len(pixels) // LOOKED_AT)][:LOOKED_AT]
        scale = _fitting(model, statistics, {u: {name: _scaled(few, u, first, dtype)} for u in usual})
    return {name: _scaled(pixels, scale, first, dtype)}, scale


def _fitting(model: Model, statistics: Statistics | None, tried: Mapping[Scale, Inputs]) -> Scale:
    """The scale whose inputs come nearest to the first statistics behind them; the first one where there are none."""
    opened = batched(model)
    known = {**(statistics or {}), **in_graph(opened)}
    made = [t.name for node in opened.graph.nodes for t in node.outputs]
    first = next((name for name in made if name in known), None)
    if first is None:
        return next(iter(tried))
    wanted = known[first]
    off = {}
    for scale, inputs in tried.items():
        found = observed(opened, {first: wanted}, inputs)[first]
        least = tolerance(wanted["std"]) + 1e-3 * np.median(wanted["std"])
        spread = np.log((found["std"] + least) / (wanted["std"] + least))
        shift = (found["mean"] - wanted["mean"]) / (wanted["std"] + least)
        off[scale] = float(np.median(spread**2) + np.median(shift**2))
    return min(off, key=lambda s: off[s])


def _image_input(model: Model) -> tuple[str, bool]:
    """The name of the only input that is an image, and whether its channels come first."""
    found = {}
    for name, shape in model.input_shapes.items():
        if name in model.inputs and (first := channels_first(shape)) is not None:
            found[name] = first
    if len(found) != 1 or len(model.inputs) != 1:
        raise UsageError(
            f"{model.name} has not one input for images of 1 or 3 channels", "give an npz file with an array per input"
        )
    return next(iter(found.items()))


def _pixels(file: Path, height: int, width: int, channels: int) -> np.ndarray:
    """A picture as float32 [height, width, channels] of 0 to 1."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UsageError("reading pictures needs Pillow", "pip install 'graphprune[images]'") from error
    try:
        with Image.open(file) as opened:
            picture: PIL.Image.Image = ImageOps.exif_transpose(opened).convert("RGBA")
    except OSError as error:
        raise UsageError(f"{file} cannot be read as a picture: {error}", "remove it from the folder") from error
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    fitted = ImageOps.fit(white.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BICUBIC)
    return np.asarray(fitted, np.float32).reshape(height, width, channels) / 255


def _scaled(pixels: np.ndarray, scale: Scale, first: bool, dtype: np.dtype) -> np.ndarray:
    values = (pixels - np.asarray(scale.mean, np.float32)) / np.asarray(scale.std, np.float32)
    values = np.moveaxis(values, -1, 1) if first else values
    return values.round().astype(dtype) if dtype.kind in "iu" else values.astype(dtype)
