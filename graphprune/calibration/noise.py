"""Images that were never taken: seeded noise with more and more of the structure of pictures.

All are float64 [count, channels, height, width] of about zero mean and unit spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Image = Callable[[tuple[int, int, int, int], np.random.Generator], np.ndarray]

LEAVES = 300  # of one image
STROKES = 60  # of a square image, at most
LETTERS = 12  # of an alphabet
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
    """Thin lines and arcs of one colour on a plain ground, with a little noise: drawings and signs."""
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
            a, b = _turned(v, u, angle)
            if rng.random() < 2 / 3:
                away = _off_line(a, b, length)
            else:
                turned = np.arctan2(b, a) < rng.uniform(-np.pi, np.pi)
                away = np.where(turned, abs(np.hypot(a, b) - length / 2), np.inf)
            ink[window] = np.maximum(ink[window], _line(away, thickness))
        image += _in_two_colours(ink, rng)
    return images


def writing(shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    """One to four lines of letters, of another made-up alphabet in every image."""
    height, width = shape[2:]
    images = np.zeros(shape)
    for image in images:
        lines = int(rng.choice([1, 1, 2, 3, 4]))
        pitch = height / lines
        size = max(4, int(pitch * rng.uniform(0.5, 1.0)))
        thickness = max(size * rng.uniform(0.05, 0.16), 1.0)
        alphabet = [_letter(size, thickness, rng) for _ in range(LETTERS)]
        advance = size * rng.uniform(0.45, 1.1)
        ink = np.zeros((height + size, width + 2 * size))  # with room for letters that are cut off
        for line in range(lines):
            top = max(0, int(pitch * line + (pitch - size) / 2 + rng.normal(0, 0.05 * size)))
            x, end = size * rng.uniform(0.5, 1.5), size + width * rng.uniform(0.3, 1.1)
            while x < min(end, width + size):
                if rng.random() < 0.85:  # else a space
                    window = ink[top : top + size, int(x) : int(x) + size]
                    letter = alphabet[rng.integers(LETTERS)][: window.shape[0], : window.shape[1]]
                    np.maximum(window, letter, out=window)
                x += advance * rng.uniform(0.8, 1.2)
        image += _in_two_colours(ink[:height, size : size + width], rng)
    return images


NOISE: Mapping[str, Image] = {"white": white, "pink": pink, "leaves": leaves}  # shows every direction
PICTURES: Mapping[str, Image] = {"objects": objects, "strokes": strokes, "writing": writing}
KINDS: Mapping[str, Image] = {**NOISE, **PICTURES}


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


def _turned(v: np.ndarray, u: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """How far points are along a direction, and across it."""
    return u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)


def _off_line(along: np.ndarray, across: np.ndarray, length: float) -> np.ndarray:
    """The distance from a line of some length about the origin."""
    return np.hypot(np.maximum(abs(along) - length / 2, 0), across)


def _line(away: np.ndarray, thickness: float) -> np.ndarray:
    """Ink, 0 to 1, at a distance from the middle of a line, with an edge of one pixel."""
    return np.clip((thickness + 1) / 2 - away, 0, 1)


def _letter(size: int, thickness: float, rng: np.random.Generator) -> np.ndarray:
    """Two to six lines and circles between the points of a grid of three by three: ink, float64 [size, size]."""
    v, u = np.ogrid[:size, :size]
    ink = np.zeros((size, size))
    for _ in range(rng.integers(2, 7)):
        (y0, x0), (y1, x1) = (0.1 + 0.4 * rng.integers(0, 3, (2, 2))) * size
        length, y, x = float(np.hypot(y1 - y0, x1 - x0)), v - (y0 + y1) / 2, u - (x0 + x1) / 2
        if rng.random() < 0.25:
            away = abs(np.hypot(y, x) - max(length / 2, 0.15 * size))
        else:
            away = _off_line(*_turned(y, x, float(np.arctan2(y1 - y0, x1 - x0))), length)
        ink = np.maximum(ink, _line(away, thickness))
    return ink


def _in_two_colours(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink of one brightness on a ground of another, with a little noise: float64 [1, height, width]."""
    ground, colour = rng.uniform(-2, 2, 2)
    return (ground + (colour - ground) * ink + rng.normal(0, rng.uniform(0, 0.3), ink.shape))[None]


def _paint(image: np.ndarray, grain: np.ndarray, radius: float, y: float, x: float, rng: np.random.Generator) -> None:
    """Paint a disc, a bar or an ellipse, of one colour with a gradient and texture, over what is there."""
    v, u, window = _around(grain, radius, y, x)
    angle = rng.random() * np.pi
    a, b = _turned(v / radius, u / radius, angle)
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
