"""The weights of a graph in files beside it, written as they come."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rbee_runtime.artifact import FileEntry

_ALIGNMENT = 64
"""Bytes tensors start at multiples of: a cache line, and the widest vector register."""

SHARD = 2 << 30
"""Bytes after which the next file begins. A tensor is never cut."""


class WeightsFile:
    """Appends tensors to a file, and to further ones beside it once that is full.

    Each tensor is described as ONNX external data.

    Attributes:
        path: The first file; those after it have a number appended.
    """

    def __init__(self, path: Path, shard: int = SHARD) -> None:
        self.path = path
        self._shard = shard
        self._finished: list[FileEntry] = []
        self._begin()

    def add(self, name: str, array: NDArray[np.generic]) -> ir.ExternalTensor:
        """Append one tensor.

        Raises:
            OSError: The disk is full.
        """
        if self._size and self._size + array.nbytes > self._shard:
            self._finish()
            self._begin()
        self._write(b"\0" * (-self._size % _ALIGNMENT))
        offset = self._size
        # As bytes: not every type, bfloat16 for one, can be handed over as a buffer.
        self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return ir.ExternalTensor(
            self._current.name,
            offset,
            array.nbytes,
            ir.DataType.from_numpy(array.dtype),
            shape=ir.Shape(array.shape),
            name=name,
            base_dir=self.path.parent,
        )

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """The files, with size and digest of what has been written."""
        return (*self._finished, self._entry())

    def _begin(self) -> None:
        number = len(self._finished)
        self._current = self.path.with_name(f"{self.path.name}.{number}") if number else self.path
        self._stream: BinaryIO = self._current.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def _finish(self) -> None:
        self._finished.append(self._entry())
        self._stream.close()

    def _entry(self) -> FileEntry:
        return FileEntry(
            role="weights",
            path=self._current.name,
            size=self._size,
            sha256=self._digest.hexdigest(),
        )

    def _write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._size += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
