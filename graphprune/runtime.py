"""Run a compiled model: ctypes and numpy, no compiler and no TVM.

model = graphprune.runtime.load("mobilenet.graphprune")
outputs = model({"input": image})
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from graphprune.compiler.manifest import FORMAT, Manifest, Value
from graphprune.compiler.targets import machine
from graphprune.errors import InvalidModelError, UsageError


def load(folder: str | Path, threads: int = 1) -> CompiledModel:
    """The compiled model in `folder`.

    Args:
        folder: of one artefact, or the folder that holds one per machine.
        threads: that run it together; 0 takes as many as there are processors.

    Raises:
        InvalidModelError: no artefact there, or none that runs on this machine.
    """
    folder = Path(folder)
    here = folder if (folder / "manifest.json").exists() else folder / machine()
    if not (here / "manifest.json").exists():
        found = sorted(p.parent.name for p in folder.glob("*/manifest.json")) if folder.is_dir() else []
        hint = f"compiled for: {', '.join(found)}" if found else "compile the model first"
        raise InvalidModelError(f"{folder} holds no compiled model for this machine ({machine()})", hint)
    return CompiledModel(here, read_manifest(here), threads or os.cpu_count() or 1)


def read_manifest(folder: Path) -> Manifest:
    """The facts of the artefact in `folder`.

    Raises:
        InvalidModelError: the file is broken or of another version of graphprune.
    """
    path = folder / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise InvalidModelError(f"{path}: {error}", "compile the model again") from error
    if manifest.format != FORMAT:
        raise InvalidModelError(
            f"{path}: format {manifest.format}, this graphprune reads {FORMAT}", "compile the model again"
        )
    return manifest


class UnsupportedProcessorError(InvalidModelError):
    """The library uses instructions that this processor lacks."""


class CompiledModel:
    """A callable: numpy arrays by input name in, numpy arrays by output name out.

    Calls of one instance from several threads take turns; for parallel runs load the model once per thread (the weights
    are mapped from the file and shared).
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int = 1) -> None:
        self.manifest = manifest
        self._lock = threading.Lock()
        self._handle = None
        self._weights = None if manifest.embedded else _mapped(folder / "weights.bin", manifest.weights_bytes)
        self._library = _open(folder / manifest.library, manifest.identity)
        at, size = (None, 0) if self._weights is None else (self._weights.ctypes.data, self._weights.nbytes)
        if manifest.target.name != "cuda" and not self._library.graphprune_supported():
            needs = ", ".join(manifest.target.features)
            raise UnsupportedProcessorError(
                f"{folder} was compiled for {manifest.target.cpu} ({needs}), not for this processor"
            )
        reason = ctypes.c_char_p()
        self._handle = self._library.graphprune_create(at, size, ctypes.byref(reason))
        if not self._handle:
            why = (reason.value or b"").decode()
            if why.startswith("out of memory"):
                wanted = manifest.workspace_bytes + manifest.prepared_bytes
                raise MemoryError(f"{folder}: no memory for the {wanted} bytes it works in")
            raise InvalidModelError(f"{folder}: {why}")
        self.threads = self._library.graphprune_threads(self._handle, threads) if threads > 1 else 1

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model.

        Args:
            inputs: for each input of the manifest an array of exactly its dtype and shape.

        Raises:
            UsageError: an input is missing, unknown, or has another dtype or shape.
        """
        arrays = self._arrays(inputs)
        outputs = {value.name: np.empty(value.shape, value.dtype) for value in self.manifest.outputs}
        with self._lock:
            self._check(
                self._library.graphprune_run(self._handle, _pointers(arrays), _pointers(list(outputs.values())))
            )
        return outputs

    def profile(self, inputs: Mapping[str, np.ndarray], runs: int = 20) -> np.ndarray:
        """Seconds of every kernel of the manifest: medians over some runs, float64 [kernels].

        Args:
            inputs: as for a call.
            runs: how many, after a first that is not counted.
        """
        arrays = self._arrays(inputs)
        seconds = np.empty((1 + runs, len(self.manifest.kernels)))
        with self._lock:
            for row in seconds:
                self._check(self._library.graphprune_profile(self._handle, _pointers(arrays), row.ctypes.data))
        return np.median(seconds[1:], axis=0)

    def _arrays(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        unknown = sorted(set(inputs) - {value.name for value in self.manifest.inputs})
        if unknown:
            names = ", ".join(value.name for value in self.manifest.inputs)
            raise UsageError(f"the model has no input {unknown[0]!r}", f"inputs: {names}")
        return [_checked(value, inputs) for value in self.manifest.inputs]

    def _check(self, failed: int) -> None:
        if failed:
            what = f"kernel {self.manifest.kernels[failed - 1].name}" if failed > 0 else "the model"
            raise InvalidModelError(f"{what} failed: {self._library.graphprune_error(self._handle).decode()}")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.graphprune_destroy(self._handle)
            self._handle = None


_MAPPED: WeakValueDictionary[tuple[int, ...], np.ndarray] = WeakValueDictionary()  # by file, while a model reads it


def _mapped(path: Path, size: int) -> np.ndarray:
    """The weights in memory, at one place for all models: libraries share what they make of the same."""
    if not path.exists() or path.stat().st_size != size:
        raise InvalidModelError(f"{path} is missing or not the file of this model", "compile the model again")
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    return _MAPPED.setdefault((facts.st_dev, facts.st_ino, facts.st_mtime_ns, size), mapped)


def _checked(value: Value, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    if value.name not in inputs:
        raise UsageError(f"input {value.name!r} is missing")
    array = np.asarray(inputs[value.name])
    if array.dtype != np.dtype(value.dtype):
        raise UsageError(f"input {value.name!r} has dtype {array.dtype}, the model takes {value.dtype}")
    if array.shape != value.shape:
        raise UsageError(f"input {value.name!r} has shape {array.shape}, the model takes {value.shape}")
    return np.ascontiguousarray(array)


def _pointers(arrays: list[np.ndarray]) -> ctypes.Array:
    return (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))


def _open(path: Path, identity: str) -> ctypes.CDLL:
    """The library at `path`, which must be the one of this `identity`.

    The system's loader knows libraries by path and gives the one it has even after the file was replaced; loading a
    copy gets the new one.
    """
    library = _load(path)
    if library.graphprune_identity().decode() != identity:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            library = _load(Path(shutil.copy(path, folder)))
    if library.graphprune_identity().decode() != identity:
        raise InvalidModelError(f"{path} is not the library of its manifest", "compile the model again")
    return library


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path.resolve()))
        library.graphprune_identity.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise InvalidModelError(f"{path} cannot be loaded: {error}") from error
    library.graphprune_supported.restype = ctypes.c_int
    library.graphprune_create.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    library.graphprune_create.restype = ctypes.c_void_p
    library.graphprune_destroy.argtypes = [ctypes.c_void_p]
    library.graphprune_destroy.restype = None
    library.graphprune_error.argtypes = [ctypes.c_void_p]
    library.graphprune_error.restype = ctypes.c_char_p
    library.graphprune_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.graphprune_run.restype = ctypes.c_int
    library.graphprune_threads.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.graphprune_threads.restype = ctypes.c_int32
    library.graphprune_profile.argtypes = [ctypes.c_void_p] * 3
    library.graphprune_profile.restype = ctypes.c_int
    return library
