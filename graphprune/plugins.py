"""What installed packages add, found by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from graphprune.errors import UsageError


def installed(group: str, kind: str, taken: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Everything that is registered under an entry-point group, loaded, by name.

    Args:
        group: e.g. ``graphprune.passes``.
        kind: what such a thing is called in messages.
        taken: names that are graphprune's own.

    Raises:
        UsageError: two packages offer the same name, one offers a name that is taken, or one cannot be loaded.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        first = points.setdefault(point.name, point)
        if first.value != point.value or point.name in taken:
            other = "graphprune itself" if point.name in taken else _source(first)
            raise UsageError(
                f"a {kind} called '{point.name}' comes from two places: {other} and {_source(point)}",
                "uninstall one of them",
            )
    return {name: _load(point, kind) for name, point in points.items()}


def _load(point: EntryPoint, kind: str) -> Any:
    try:
        return point.load()
    except Exception as error:  # somebody else's module: anything may happen
        raise UsageError(
            f"{kind} '{point.name}' of {_source(point)} cannot be loaded: {type(error).__name__}: {error}",
            "repair or uninstall that package",
        ) from error


def _source(point: EntryPoint) -> str:
    return f"{point.dist.name} ({point.value})" if point.dist is not None else point.value
