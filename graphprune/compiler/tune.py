"""Choose kernels by measuring them: for each distinct layer a handful of ways, each built alone and timed in turn.

What was measured is kept, by layer, target and compiler, so that the next model with such a layer takes no time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tvm

from graphprune.compiler import cache as kept
from graphprune.compiler.build import built
from graphprune.compiler.kernels.peak import SUMS, peak_kernel
from graphprune.compiler.memory import ALIGNMENT, SLACK
from graphprune.compiler.schedule import hoist_scratch, in_root_block
from graphprune.compiler.targets import Target, host, machine
from graphprune.compiler.ways import Cheapest, Way, Ways
from graphprune.errors import UsageError

NEAR = 1.5  # times the cost of the cheapest: ways that may turn out to be faster
SECONDS = 0.03  # to measure each way
TOLD = 3  # ways not taken that the reason names
LEAST = 5  # runs of each, however long they take


def timeable(target: Target) -> bool:
    """Whether code for a target runs in this process."""
    return target.name == machine() and {*target.features} <= {*host.host().features}


class Tuner:
    """Takes what is fastest on this machine.

    Attributes:
        few: of each kind of way, how many the cost model hands on.
    """

    few = 2

    def __init__(self, target: Target, folder: Path | None = None) -> None:
        """For a target that is this machine; times are kept in `folder`, where one is given.

        Raises:
            UsageError: the target's code does not run in this process.
        """
        if not timeable(target):
            raise UsageError(f"kernels for {target.name} cannot be timed on this machine", "leave --tune out for it")
        self.target, self.folder = target, folder
        self._known: dict[str, dict[str, float]] = {}

    def __repr__(self) -> str:
        return "Tuner"

    def __call__(self, ways: Ways) -> tuple[Way, str]:
        """The fastest way."""
        cheapest = min(way.cost for way in ways.found)
        near = [way for way in ways.found if way.cost <= NEAR * cheapest]
        if len(near) == 1:
            return Cheapest()(ways)
        times = self._times(ways.layer, near)
        best, *others = sorted(near, key=lambda way: times[str(way)])
        told = ", ".join(f"{way} {times[str(way)]:.3g}" for way in others[:TOLD])
        return best, f"measured {times[str(best)]:.3g} ms; {told}"

    def _times(self, layer: str, ways: Sequence[Way]) -> dict[str, float]:
        """Milliseconds of each way, by name."""
        key = kept.digest("times", self.target, layer, [str(way) for way in ways])
        if key in self._known:
            return self._known[key]
        file = self.folder / "times" / f"{key}.json" if self.folder else None
        if file and file.exists():
            found = msgspec.json.decode(file.read_bytes(), type=dict[str, float])
        else:
            found = measure(ways, self.target)
            if file:
                _write(file, msgspec.json.encode(found))
        return self._known.setdefault(key, found)


def measure(ways: Sequence[Way], target: Target) -> dict[str, float]:
    """Milliseconds of each way, by name: first quartiles of calls that take turns, on one thread."""
    functions, arguments = {}, {}
    for number, way in enumerate(ways):
        made = way.make()
        constants = made.constants if made.once is None else []  # prepared ones may be anything
        for name, function, known in ((f"before{number}", made.before, []), (f"way{number}", made.function, constants)):
            if function is not None:
                function, _ = hoist_scratch(in_root_block(function))
                functions[name] = function.with_attr("global_symbol", name)
                arguments[name] = _arguments(function, known)
    library = built(tvm.IRModule(functions), target)
    calls = [
        [(library[name], arguments[name]) for name in (f"before{number}", f"way{number}") if name in functions]
        for number in range(len(ways))
    ]
    for call, given in chain(*calls):
        call(*given)
    rounds: list[list[float]] = []
    end = time.perf_counter() + SECONDS * len(calls)
    while len(rounds) < LEAST or time.perf_counter() < end:
        rounds.append([sum(_seconds(*call) for call in both) for both in calls])
    quartiles = np.percentile(rounds, 25, axis=0) * 1e3
    return {str(way): float(ms) for way, ms in zip(ways, quartiles, strict=True)}


def _seconds(call: Any, given: list[Any]) -> float:
    began = time.perf_counter()
    call(*given)
    return time.perf_counter() - began


def _arguments(function: Any, constants: Sequence[np.ndarray]) -> list[Any]:
    """Arrays for a kernel: its constants after what flows in, random values for the rest, all of the work as share."""
    rng = np.random.default_rng(0)
    arrays = []
    for number, parameter in enumerate(function.params):
        shape, dtype = tuple(int(d) for d in parameter.shape), str(parameter.dtype)
        if 0 < number <= len(constants):
            value = constants[number - 1]
        elif dtype == "int32":
            value = np.array([0, 1], np.int32)
        else:
            value = rng.standard_normal(shape, np.float32)
        arrays.append(tvm.runtime.from_dlpack(roomy(value.reshape(shape).astype(dtype))))
    return arrays


def roomy(value: np.ndarray) -> np.ndarray:
    """A copy that is aligned, with room behind it, as the memory plan of a model leaves it."""
    memory = np.zeros(value.nbytes + ALIGNMENT + SLACK, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def _write(file: Path, data: bytes) -> None:
    """Write a file of the cache whole; one that cannot be written is done without."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
        Path(beside).replace(file)
    except OSError:
        return


def peak(target: Target) -> float:
    """Floating-point operations a second that one thread reaches without touching memory, in units of 10⁹."""
    steps = 50_000
    function = in_root_block(peak_kernel(steps, target)).with_attr("global_symbol", "peak")
    call, given = built(tvm.IRModule({"peak": function}), target)["peak"], _arguments(function, ())
    return 2 * steps * SUMS * target.lanes / min(_seconds(call, given) for _ in range(10)) / 1e9
