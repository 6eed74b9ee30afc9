"""Weights too large to hold: they stay in their file, and what a cut makes of them is computed when asked for.

A *streamed* constant is read block by block, a block being some rows of its first axis, so that memory grows with the
block and not with the model. Everything else about it is as with any other constant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphprune.errors import InvalidModelError

# Bytes of a tensor that are looked at together.
BLOCK = 1 << 24
# Offsets in data files are multiples of this, which lets readers map the file (onnx, docs/ExternalData.md).
ALIGNMENT = 4096
# Values in memory of at least so many bytes are shared by all that read them; smaller ones are copied.
SMALLEST_SHARED = 1 << 16

Rows = Callable[[np.ndarray, slice], np.ndarray]
"""What becomes of some rows of a tensor; the slice says which rows of the first axis they are."""


class Stored(LazyValues):
    """The values of a tensor in a data file, mapped anew each time and never kept.

    Attributes:
        tensor: the protobuf that says where they lie; it holds none.

    Raises:
        InvalidModelError: the file ends before the tensor does.
    """

    def __init__(self, tensor: TensorProto, folder: Path) -> None:
        super().__init__(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        self._path = folder / entries["location"]
        self._offset = int(entries.get("offset", "0"))
        self._numpy = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        self._state = self._stat()
        if self._offset + self.nbytes > self._state[0]:
            raise InvalidModelError(
                f"external data file '{self._path}' is too short for tensor '{tensor.name}'",
                "copy it again: it is truncated",
            )

    def _stat(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_size, found.st_mtime_ns

    def load(self) -> np.ndarray:
        """All values, read-only."""
        return self._rows(0, self.shape[0])

    def blocks(self) -> Iterator[np.ndarray]:
        """The values, some rows at a time."""
        rows = max(1, BLOCK * self.shape[0] // self.nbytes)
        for start in range(0, self.shape[0], rows):
            yield self._rows(start, min(rows, self.shape[0] - start))

    def _rows(self, start: int, count: int) -> np.ndarray:
        try:
            if self._stat() != self._state:
                raise OSError
            offset = self._offset + start * (self.nbytes // self.shape[0])
            return np.memmap(self._path, self._numpy, "r", offset, (count, *self.shape[1:])).view(np.ndarray)
        except OSError as error:
            raise InvalidModelError(
                f"external data file '{self._path}' is gone or was changed while it was in use", "start again"
            ) from error


class Changed(LazyValues):
    """What ``by`` makes of streamed values: computed anew each time, and never kept.

    Args:
        source: the values before.
        by: applied to some rows at a time.
        shape: of the result.
    """

    def __init__(self, source: Stored | Changed, by: Rows, shape: tuple[int, ...]) -> None:
        super().__init__(TensorProto(name=source.tensor.name, data_type=source.tensor.data_type, dims=shape))
        self._source, self._by = source, by

    def load(self) -> np.ndarray:
        """All values."""
        values = np.empty(tuple(self.shape), self.dtype)
        start = 0
        for block in self.blocks():
            values[start : start + len(block)] = block
            start += len(block)
        return values

    def blocks(self) -> Iterator[np.ndarray]:
        """The values, some rows at a time."""
        start = 0
        for block in self._source.blocks():
            yield self._by(block, slice(start, start + len(block)))
            start += len(block)


class Streamed(gs.Constant):
    """A constant whose values are made anew each time they are asked for."""

    @property
    def values(self) -> np.ndarray:
        """All values, of which nothing else keeps a copy."""
        return self._values.load() if isinstance(self._values, LazyValues) else self._values

    @values.setter
    def values(self, values: np.ndarray | LazyValues) -> None:
        self._values = values

    def copy(self) -> Streamed:
        """A shallow copy without inputs and outputs."""
        return Streamed(self.name, self._values, export_dtype=self.export_dtype)


def stream(constant: gs.Constant, folder: Path) -> None:
    """Turn a constant whose protobuf refers to a data file in ``folder`` into a streamed one."""
    constant.__class__ = Streamed
    constant._values = Stored(constant._values.tensor, folder)


def hold(constant: gs.Constant) -> None:
    """Take a constant out of the protobuf it was read from, which else stays in memory as a whole.

    Large values become arrays, which copies of the constant share; the protobuf of few is copied.
    """
    lazy = constant._values
    if lazy.nbytes >= SMALLEST_SHARED and lazy.tensor.HasField("raw_data"):
        values = onnx.numpy_helper.to_array(lazy.tensor)
        if values.dtype.kind in "fiub":  # numpy knows no others; what they become would be stored as another type
            constant._values = values
            return
    tensor = TensorProto()
    tensor.CopyFrom(lazy.tensor)
    constant._values = LazyValues(tensor)


def is_held(tensor: gs.Tensor) -> bool:
    """Whether the values of a constant are an array large enough for sessions to share it."""
    values = tensor._values
    return isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and values.nbytes >= SMALLEST_SHARED


def is_streamed(tensor: gs.Tensor) -> bool:
    """Whether a tensor's values are not held in memory."""
    return isinstance(tensor, Streamed) and isinstance(tensor._values, Stored | Changed)


def size(constant: gs.Constant) -> int:
    """Bytes of a constant's values."""
    return int(constant._values.nbytes)


def blocks(constant: gs.Constant) -> Iterator[np.ndarray]:
    """The values of a constant of at least one axis, some rows at a time."""
    if is_streamed(constant):
        yield from constant._values.blocks()
        return
    values = np.asarray(constant.values)
    rows = max(1, BLOCK * len(values) // max(values.nbytes, 1))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]


def change(constant: gs.Constant, by: Rows, shape: tuple[int, ...]) -> None:
    """Let ``by`` make the values of a constant new, at once or, where they are streamed, when they are asked for."""
    if is_streamed(constant):
        constant.values = Changed(constant._values, by, shape)
    else:
        constant.values = by(np.asarray(constant.values), slice(None))


def refer(tensor: TensorProto, location: str, **where: int) -> TensorProto:
    """The protobuf ``tensor``, whose values are elsewhere."""
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **where}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


class DataFile:
    """Collects the values of tensors in a new data file, made with the first; equal values are written once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[tuple[int, bytes], int] = {}

    @cached_property
    def _file(self) -> BinaryIO:
        return self._path.open("xb")

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        if "_file" in vars(self):
            self._file.close()

    def add(self, tensor: TensorProto, values: Iterable[np.ndarray | bytes]) -> TensorProto:
        """The protobuf ``tensor``, whose values are written now, referring to them."""
        start = self._file.seek(-(-self._file.tell() // ALIGNMENT) * ALIGNMENT)
        digest = hashlib.sha256()
        for block in values:
            data = block if isinstance(block, bytes) else np.ascontiguousarray(block).data.cast("B")
            digest.update(data)
            self._file.write(data)
        length = self._file.tell() - start
        offset = self._offsets.setdefault((length, digest.digest()), start)
        if offset != start:
            self._file.seek(start)
            self._file.truncate()
        return refer(tensor, self._path.name, offset=offset, length=length)
