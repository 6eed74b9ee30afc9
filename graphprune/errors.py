"""Every way a run can end badly, and the exit code of each.

An error is one line that names the file, node or option concerned, plus a hint that says what to do. The command line
prints both and ends with the exit code; a Python caller catches the class.
"""

from __future__ import annotations

from collections.abc import Mapping


def visible(text: str) -> str:
    """Text with everything escaped that a terminal would act on: names come from models that anyone may have made."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class GraphpruneError(Exception):
    """Base of all errors graphprune raises on purpose.

    Args:
        message: one line: what is wrong, with the file, node or operator it is about.
        hint: one line: what the user can do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(GraphpruneError):
    """An option, a pipeline text or a plan that makes no sense."""

    exit_code = 2


class InvalidModelError(GraphpruneError):
    """The input cannot be read as a valid ONNX model, or cannot be run."""

    exit_code = 3


class NothingToPruneError(GraphpruneError):
    """Every axis of the model is pinned."""

    exit_code = 4


class TargetNotReachedError(GraphpruneError):
    """The amount asked for cannot be removed within the limits given.

    Args:
        message: as for every error.
        hint: the same.
        nearest: the least share of each measure that could have been kept, by name, where that is known.
    """

    exit_code = 5

    def __init__(self, message: str, hint: str = "", nearest: Mapping[str, float] | None = None) -> None:
        super().__init__(message, hint)
        self.nearest = dict(nearest or {})


class VerificationError(GraphpruneError):
    """The result does not compute what it must; nothing is written."""

    exit_code = 6


class OutputError(GraphpruneError):
    """The output exists already or cannot be written."""

    exit_code = 7


class CompileError(GraphpruneError):
    """The pruned model cannot be compiled for the target."""

    exit_code = 8


class LimitError(GraphpruneError):
    """The run needed more memory or time than it may have."""

    exit_code = 9
