"""Matrices of floating-point numbers of 8 bits, with scales in a tensor beside them.

They are read here, for NumPy has no such type, and the safetensors library gives it none.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from rbee_export.errors import CheckpointError

KIND = "F8_E4M3"
"""The type, as safetensors call it."""

SUFFIXES = ("_scale_inv", "_scale")
"""What the name of the scales ends with, behind that of the matrix; either way they multiply."""

_BLOCK = 128
"""Rows and columns that share a scale, where neither a row nor a matrix does."""

_LENGTH = struct.Struct("<Q")
_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
"""What each byte stands for."""


@dataclass(frozen=True, slots=True)
class ScaledFloats:
    """A matrix, still on disk.

    Attributes:
        file: The file it is in, whose header was checked.
        name: Its name there.
        shape: Its rows and columns.
        scales: What its numbers are multiplied by: one for all, for each row, or for each block.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    scales: NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, file: Path, name: str, shape: tuple[int, ...], scales: NDArray[np.float32]) -> Self:
        """Return a matrix with its scales.

        Raises:
            CheckpointError: They do not go together.
        """
        wide = scales.reshape(-1, 1) if scales.ndim < 2 else scales
        if len(shape) != 2 or wide.ndim != 2 or not all(map(_step, shape, wide.shape)):
            raise CheckpointError(
                f"{file}: tensor {name} of {list(shape)} has scales of {list(scales.shape)}, which "
                f"is neither one for all, nor one a row, nor one a block of {_BLOCK}"
            )
        return cls(file, name, shape, wide)

    def read(self, rows: slice) -> NDArray[np.float32]:
        """Return a range of the rows."""
        start, stop, _ = rows.indices(self.shape[0])
        columns = self.shape[1]
        with self.file.open("rb") as stream:
            length = _LENGTH.unpack(stream.read(_LENGTH.size))[0]
            begin = json.loads(stream.read(length))[self.name]["data_offsets"][0]
            stream.seek(_LENGTH.size + length + begin + start * columns)
            data = stream.read((stop - start) * columns)
        if len(data) != (stop - start) * columns:
            raise CheckpointError(f"{self.file}: tensor {self.name} is not whole")
        values = _VALUES[np.frombuffer(data, np.uint8)].reshape(-1, columns)
        down, across = map(_step, self.shape, self.scales.shape)
        own = self.scales[np.arange(start, stop) // down]
        scaled: NDArray[np.float32] = values * np.repeat(own, across, axis=1)[:, :columns]
        return scaled


def _step(size: int, scales: int) -> int:
    """Return how many rows, or columns, share a scale; zero where their number is none."""
    if scales == 1:
        return max(size, 1)
    if scales == size:
        return 1
    return _BLOCK if scales == -(-size // _BLOCK) else 0
