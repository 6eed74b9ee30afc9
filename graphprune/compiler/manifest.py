"""`manifest.json`: what lies in an artefact folder. Read by the runtime, so nothing here imports a compiler."""

from __future__ import annotations

import math

import msgspec
import numpy as np

FORMAT = 1


class Value(msgspec.Struct, frozen=True):
    """An input or output of the model: its ONNX name, numpy dtype name and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Machine(msgspec.Struct, frozen=True):
    """The machine a library was built for."""

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]


class Kernel(msgspec.Struct, frozen=True):
    """One call of the compiled program.

    Attributes:
        name: the function in the library.
        kind: `ours` for a scheduled kernel of graphprune, `fallback` for one that TVM's legalisation wrote, `scheduled`
            for one that TVM scheduled for a graphics processor.
        nodes: ONNX nodes it computes, where known.
        how: the shape of its loops in words, for a kernel of graphprune.
        why: the reason for these loops, where there was a choice.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    how: str = ""
    why: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """The facts of a compiled model.

    Attributes:
        identity: a digest of the code that its libraries know too.
        also: further modules of the same kernels, by file name, each with the features it needs besides the target's.
        embedded: whether the library holds the weights, and there is no `weights.bin`.
        prepared_bytes: of what kernels take in a larger form than the weights have, made when a model is loaded.
        pages: memory that a module with threads is given before it has any, in pages of 64 kB.
    """

    name: str
    target: Machine
    library: str
    identity: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    workspace_bytes: int
    weights_bytes: int
    kernels: tuple[Kernel, ...]
    versions: dict[str, str]
    also: dict[str, tuple[str, ...]] = {}
    embedded: bool = False
    prepared_bytes: int = 0
    pages: int = 0
    format: int = FORMAT
