"""Whether this installation can do its work: what is there, what is missing, and what to install."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

import msgspec
from packaging.requirements import Requirement

from graphprune.cli.limits import available
from graphprune.errors import UsageError

INSTALL = {
    "ziglang": "pip install 'graphprune[edge]'",
    "nvidia.cuda_nvrtc": "pip install 'graphprune[cuda]'",
    "node": "apt-get install nodejs, or nodejs.org",
    "qemu-": "apt-get install qemu-user-static",
    "TVM": "pip install --force-reinstall apache-tvm",
    "onnxruntime": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "ray": "pip install 'graphprune[ray]'",
}
EXTRAS = {"ray": "sweeps on a cluster"}


class Check(msgspec.Struct, frozen=True):
    """One thing looked at.

    Attributes:
        what: in words.
        found: what is there; or what is wrong.
        ok: whether it can be used.
        needed: whether pruning, or compiling for this machine, needs it.
        install: what to do where it is not ok.
    """

    what: str
    found: str
    ok: bool = True
    needed: bool = True
    install: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """Everything looked at."""

    platform: str
    cores: int
    memory: int
    checks: list[Check]

    @property
    def missing(self) -> list[Check]:
        """What is needed and cannot be used."""
        return [c for c in self.checks if c.needed and not c.ok]


def examine() -> Diagnosis:
    """Look at this installation; nothing is changed."""
    checks = [*_packages(), *_onnxruntime(), *_targets(), *_extras()]
    return Diagnosis(platform.platform(), os.cpu_count() or 1, available(), checks)


def _packages() -> Iterator[Check]:
    yield Check("python", f"{platform.python_version()} in {sys.prefix}")
    for text in metadata.requires("graphprune") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        install = f"pip install '{wanted.name}{wanted.specifier}'"
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Check(wanted.name, "not installed", False, install=install)
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        yield Check(wanted.name, version if fits else f"{version}, needs {wanted.specifier}", fits, install=install)


def _onnxruntime() -> Iterator[Check]:
    try:
        import onnxruntime

        from graphprune.model.session import running_on, session, smallest

        session(smallest())
        names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    except Exception as error:
        again = "pip install --force-reinstall onnxruntime"
        yield Check("onnxruntime runs a model", f"{type(error).__name__}: {error}", False, install=again)
        return
    yield Check("onnxruntime runs a model", f"on the CPU; providers: {', '.join(names)}")
    try:
        with running_on("cuda"):
            yield Check("calibrate on CUDA", "--provider cuda", needed=False)
    except UsageError:
        yield Check(
            "calibrate on CUDA", "needs an NVIDIA processor and its libraries", False, False, INSTALL["onnxruntime"]
        )


def _targets() -> Iterator[Check]:
    try:
        from graphprune.execute import survey

        found = survey()
    except Exception as error:
        yield Check("TVM", f"{type(error).__name__}: {error}", False, install=INSTALL["TVM"])
        return
    for target in found:
        here = target.name == "host"
        triple = ", ".join(filter(None, [target.triple, target.cpu]))
        yield _parts(f"compile for {target.name}", triple, target.missing, needed=here)
        yield _parts(f"run {target.name} here", target.runner, target.runner_missing, needed=here)


def _parts(what: str, found: str, missing: list[str], needed: bool) -> Check:
    if not missing:
        return Check(what, found, needed=needed)
    install = {text for name in missing for start, text in INSTALL.items() if name.startswith(start)}
    return Check(what, f"needs {' and '.join(missing)}", False, needed, "; ".join(sorted(install)))


def _extras() -> Iterator[Check]:
    for name, use in EXTRAS.items():
        try:
            yield Check(use, f"{name} {metadata.version(name)}", needed=False)
        except metadata.PackageNotFoundError:
            yield Check(use, f"needs {name}", False, False, INSTALL[name])
