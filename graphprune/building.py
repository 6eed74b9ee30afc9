"""How models are compiled where the options say how: what chooses kernels, and where things are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.compiler.cache import default
from graphprune.options import BuildOptions

if TYPE_CHECKING:
    from graphprune.compiler.targets import Target
    from graphprune.compiler.ways import Pick


def cache_of(options: BuildOptions) -> Path | None:
    """Where compiled models and times are kept, if anywhere."""
    return None if options["no_cache"] else options["cache_dir"] or default()


def picked(target: Target, options: BuildOptions, skip_zeros: bool = True) -> Pick:
    """What chooses the kernels of a target: the cost model, or measuring where that is asked for and possible."""
    from graphprune.compiler.tune import Tuner, timeable
    from graphprune.compiler.ways import Cheapest, Dense

    pick = Tuner(target, cache_of(options)) if options["tune"] != "off" and timeable(target) else Cheapest()
    return pick if skip_zeros else Dense(pick)


def peak_of(target: Target) -> float:
    """What one thread reaches in registers, in units of 10⁹ floating-point operations a second."""
    from graphprune.compiler.tune import peak

    return round(peak(target), 1)
