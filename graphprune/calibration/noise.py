"""Images that were never taken: seeded noise with more and more of the structure of photographs.

All are float64 [count, channels, height, width] of about zero mean and unit spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Image = Callable[[tuple[int, int, int, int], np.random.Generator], np.ndarray]

LEAVES = 300  # of one image
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

    Discs, bars and ellipses, the number of a size falling with its cube, each of one colour with a gradient and 1/f
    texture, painted from back to front.
    """
    count, channels, height, width = shape
    side = min(height, width)
    images = np.zeros(shape)
    texture = 0.3 * pink((count, 1, height, width), rng)
    for image, grain in zip(images, texture, strict=True):
        image += rng.uniform(-1.5, 1.5, (channels, 1, 1))
        for _ in range(LEAVES):
            radius = side / np.sqrt(COARSEST**-2 + rng.random() * (FINEST**-2 - COARSEST**-2))
            y, x = rng.random() * height, rng.random() * width
            rows = slice(int(max(0, y - radius)), int(min(height, y + radius + 1)))
            columns = slice(int(max(0, x - radius)), int(min(width, x + radius + 1)))
            v, u = np.ogrid[rows, columns]
            angle = rng.random() * np.pi
            a = ((u - x) * np.cos(angle) + (v - y) * np.sin(angle)) / radius
            b = ((v - y) * np.cos(angle) - (u - x) * np.sin(angle)) / radius
            kind = rng.integers(3)
            if kind == 0:
                inside = a * a + b * b < 1
            elif kind == 1:
                inside = (abs(a) < 0.7) & (abs(b) < 0.7)
            else:
                inside = a * a + (b / 0.4) ** 2 < 1
            colour = rng.uniform(-1.5, 1.5) + rng.normal(0, 0.6, channels)
            slope = rng.normal(0, 0.4) * a + rng.random() * grain[0, rows, columns]
            image[:, rows, columns] = np.where(inside, colour[:, None, None] + slope, image[:, rows, columns])
    return images


KINDS: Mapping[str, Image] = {"white": white, "pink": pink, "leaves": leaves}
