"""Images that were never taken: seeded noise with more and more of the structure of pictures.

All are float64 [count, channels, height, width] of about zero mean and unit spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Image = Callable[[tuple[int, int, int, int], np.random.Generator], np.ndarray]

LEAVES = 300  # of one image
STROKES = 60  # of a square image, at most
COARSEST, FINEST = 0.5, 0.03  # radius of the largest and smallest leaf, as a share of the shorter side


def white(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Every value is drawn alone."""
    return rng.standard_normal(shape)


def pink(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Amplitude 1/f, as natural images have it (Field 1987), and colours correlated: little hue, mostly brightness."""
    channels, height, width = shape[1:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency
    planes = np.fft.irfft2(spectrum, s=(height, width))
    brightness = planes.mean(axis=1, keepdims=True) * np.sqrt(channels)
    mixed = brightness + 0.3 * (planes - planes.mean(axis=1, keepdims=True))
    return mixed / (mixed.std(axis=(1, 2, 3), keepdims=True) + 1e-12)


def leaves(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Dead leaves (Lee, Mumford & Huang 2001): shapes of all sizes occlude each other, with edges as objects have.

    The number of a size falls with its cube; they are painted from back to front.
    """
    height, width = shape[2:]
    side = min(height, width)
    images, texture = np.zeros(shape), _texture(shape, rng)
    for image, grain in zip(images, texture, strict=True):
        image += rng.uniform(-1.5, 1.5, (shape[1], 1, 1))
        for _ in range(LEAVES):
            radius = side / np.sqrt(COARSEST**-2 + rng.random() * (FINEST**-2 - COARSEST**-2))
            _paint(image, grain, radius, rng.random() * height, rng.random() * width, rng)
    return images


def objects(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """One to five large leaves on a plain ground, as things are photographed for a catalogue."""
    channels, height, width = shape[1:]
    images, texture = np.zeros(shape), _texture(shape, rng)
    for image, grain in zip(images, texture, strict=True):
        image += rng.uniform(-2, 2) + rng.normal(0, 0.3, (channels, 1, 1))
        for _ in range(rng.integers(1, 6)):
            radius = min(height, width) * rng.uniform(0.1, 0.45)
            _paint(image, grain, radius, height * rng.uniform(0.2, 0.8), width * rng.uniform(0.1, 0.9), rng)
    return images


def strokes(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Thin lines and arcs of one colour on a plain ground, with a little noise: drawings, signs and writing."""
    height, width = shape[2:]
    side = min(height, width)
    most = STROKES * np.sqrt(height * width) / side  # a line of text has more of them than a square
    images = np.zeros(shape)
    for image in images:
        ink = np.zeros((height, width))
        for _ in range(int(rng.uniform(most / 10, most))):
            length, thickness = side * rng.uniform(0.1, 0.5), max(side * rng.uniform(0.02, 0.08), 1.0)
            angle = rng.random() * np.pi if rng.random() < 0.4 else rng.choice([0.0, np.pi / 2])
            y, x = rng.random() * height, rng.random() * width
            v, u, window = _around(ink, length + thickness, y, x)
            a, b = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
            if rng.random() < 2 / 3:
                away = np.hypot(np.maximum(abs(a) - length / 2, 0), b)
            else:
                turned = np.arctan2(b, a) < rng.uniform(-np.pi, np.pi)
                away = np.where(turned, abs(np.hypot(a, b) - length / 2), np.inf)
            ink[window] = np.maximum(ink[window], np.clip((thickness + 1) / 2 - away, 0, 1))
        ground, colour = rng.uniform(-2, 2, 2)
        image += ground + (colour - ground) * ink + rng.normal(0, rng.uniform(0, 0.3), (1, height, width))
    return images


KINDS: Mapping[str, Image] = {"white": white, "pink": pink, "leaves": leaves, "strokes": strokes, "objects": objects}


# ------------------------------------------------------------------------------------------------------------- parts


def _texture(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """1/f texture of every image, float64 [count, height, width]."""
    return 0.3 * pink((shape[0], 1, *shape[2:]), rng)[:, 0]


def _around(plane: np.ndarray, radius: float, y: float, x: float) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
    """Rows and columns about a point, counted from it, and the window of a plane that they are."""
    height, width = plane.shape
    rows = slice(int(max(0, y - radius)), int(min(height, y + radius + 1)))
    columns = slice(int(max(0, x - radius)), int(min(width, x + radius + 1)))
    v, u = np.ogrid[rows, columns]
    return v - y, u - x, (rows, columns)


def _paint(image: np.ndarray, grain: np.ndarray, radius: float, y: float, x: float, rng: np.random.Generator) -> None:
    """Paint a disc, a bar or an ellipse, of one colour with a gradient and texture, over what is there."""
    v, u, window = _around(grain, radius, y, x)
    angle = rng.random() * np.pi
    a, b = (u * np.cos(angle) + v * np.sin(angle)) / radius, (v * np.cos(angle) - u * np.sin(angle)) / radius
    kind = rng.integers(3)
    if kind == 0:
        inside = a * a + b * b < 1
    elif kind == 1:
        inside = (abs(a) < 0.7) & (abs(b) < 0.7)
    else:
        inside = a * a + (b / 0.4) ** 2 < 1
    colour = rng.uniform(-1.5, 1.5) + rng.normal(0, 0.6, len(image))
    slope = rng.normal(0, 0.4) * a + rng.random() * grain[window]
    image[:, *window] = np.where(inside, colour[:, None, None] + slope, image[:, *window])
