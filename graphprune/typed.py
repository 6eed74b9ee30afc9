"""What is typed for options, as the values that the library takes; all raise ``UsageError`` for what means nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from graphprune.errors import UsageError

TUNING = ("off", "quick")  # ways to choose kernels
PROVIDERS = ("cpu", "cuda")  # of onnxruntime, that calibration can run models on
MEANS = ("best", "channels", "zeros", "both")  # of meeting a latency; the first tries all the others


def share(text: str) -> float:
    """``80%`` or ``0.8`` as a number."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is neither a percentage nor a share", "write 80% or 0.8") from error


def split(texts: list[str]) -> list[str]:
    """Values that are separated by commas, or given one by one."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def counts(texts: list[str]) -> list[int]:
    """Whole numbers that are separated by commas, or given one by one."""
    found = [int(text) if text.isdecimal() else -1 for text in split(texts)]
    if not found or min(found) < 0:
        raise UsageError(f"'{','.join(texts)}' is no list of numbers", "write 1, 0 for all there are, or 1,2")
    return found


def shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """``NAME:1,3,224,224`` each, as sizes by name."""
    found = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        try:
            found[name] = tuple(int(s) for s in sizes.split(","))
        except ValueError as error:
            raise UsageError(f"'{text}' is no shape of an input", "write NAME:1,3,224,224") from error
    return found


def sizes(texts: list[str]) -> dict[str, int]:
    """``NAME=SIZE`` each, as sizes by name."""
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = int(number)
        except ValueError as error:
            raise UsageError(f"'{text}' is no size of a dimension", "write NAME=SIZE") from error
    return found


def sparsity(text: str) -> float | str:
    """``70%`` as a number; ``2:4``, two of every four, stays a text."""
    return text if ":" in text else share(text)


def memory(text: str) -> int:
    """``8GB``, ``512MB`` or a number of bytes."""
    digits = text.rstrip("kMGTB")
    try:
        return int(float(digits) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[text[len(digits) :].rstrip("B")])
    except (ValueError, OverflowError, KeyError) as error:
        raise UsageError(f"'{text}' is no amount of memory", "write 8GB or 512MB") from error


def size(text: str) -> float:
    """``50%`` or ``0.5`` as a share, up to 1; ``4MB`` as bytes, above 1."""
    try:
        found = share(text)
    except UsageError:
        found = float(memory(text))
    if found <= 0:
        raise UsageError(f"'{text}' is no size", "write 4MB or 50%")
    return found


def count(text: str) -> float:
    """``2`` as a whole number; ``10%`` or ``0.1`` as a share, which is not whole even where it is ``1.0``."""
    return int(text) if text.isdecimal() else share(text)


def milliseconds(text: str) -> float:
    """``5`` or ``0.5``, above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise UsageError(f"'{text}' is no time in milliseconds", "write e.g. 5 or 0.5")
    return found


def interval(text: str) -> tuple[float, float]:
    """``LOW,HIGH`` as two numbers, the first below the second."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"'{text}' is no range", "write LOW,HIGH, e.g. 0,1") from error
    if not low < high:
        raise UsageError(f"the range {text} is empty", "write LOW,HIGH, e.g. 0,1")
    return low, high


def numbers(text: str) -> tuple[float, ...]:
    """``A,B,C`` as numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"'{text}' is no list of numbers", "write one, or one per channel: 0.485,0.456,0.406"
        ) from error


def patterns(given: str | Iterable[str] | None, option: str) -> tuple[str, ...]:
    """One regular expression, or several of which one has to match; none for no text.

    Args:
        given: as the library was given it.
        option: which option, for the message.
    """
    texts: list[object] = [*given] if isinstance(given, Iterable) and not isinstance(given, str) else [given or ""]
    found = []
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(
                f"{option} is {text!r}, which is no text", "give one regular expression, or a list of them"
            )
        try:
            re.compile(text)
        except re.error as error:
            raise UsageError(
                f"{option}: '{text}' is no regular expression: {error}", r"write \( for a bracket"
            ) from error
        found += [text] if text else []
    return tuple(found)


def means(text: str) -> str:
    """One of the means of meeting a latency."""
    if text not in MEANS:
        raise UsageError(f"a latency is not met by '{text}'", f"one of {', '.join(MEANS)}")
    return text


def provider(text: str) -> str:
    """One of the things that calibration can run models on."""
    if text not in PROVIDERS:
        raise UsageError(f"nothing can be run on '{text}'", f"one of {', '.join(PROVIDERS)}")
    return text


def tuning(text: str) -> str:
    """One of the ways to choose kernels."""
    if text not in TUNING:
        raise UsageError(f"'{text}' is no way to tune", f"one of {', '.join(TUNING)}")
    return text
