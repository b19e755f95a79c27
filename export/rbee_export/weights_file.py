"""The weights of a graph in one file beside it, written as they come."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

_ALIGNMENT = 64
"""Bytes tensors start at multiples of: a cache line, and the widest vector register."""


class WeightsFile:
    """Appends tensors to a file and describes each as ONNX external data.

    Attributes:
        path: The file.
        size: Bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._stream = path.open("wb")

    def add(self, name: str, array: NDArray[np.generic]) -> ir.ExternalTensor:
        """Append one tensor.

        Raises:
            OSError: The disk is full.
        """
        self._write(b"\0" * (-self.size % _ALIGNMENT))
        offset = self.size
        self._write(np.ascontiguousarray(array).data)
        return ir.ExternalTensor(
            self.path.name,
            offset,
            array.nbytes,
            ir.DataType.from_numpy(array.dtype),
            shape=ir.Shape(array.shape),
            name=name,
            base_dir=self.path.parent,
        )

    @property
    def sha256(self) -> str:
        """Digest of what has been written."""
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        data = memoryview(data).cast("B")
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
