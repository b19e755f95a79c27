"""A weight in a floating-point type, read when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import row_ranges
from rbee_export.checkpoint.tensor import PIECE, gathered, reader_within


@dataclass(frozen=True, slots=True)
class DenseTensor:
    """A weight in a floating-point type; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Attributes:
        shape: Outputs first.
        kind: ``F32``, ``F16``, ``BF16`` or ``F8_E4M3``.
        read: Reads a range of its rows as ``float32``.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[slice], NDArray[np.float32]] = field(repr=False)

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        if not self.shape:
            return self.read(slice(None))
        return gathered(self)

    def pieces(self, values: int = PIECE) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of rows with their values."""
        if not self.shape:
            yield slice(None), self.read(slice(None))
            return
        columns = math.prod(self.shape[1:])
        for rows in row_ranges(self.shape[0], columns, values):
            yield rows, self.read(rows)

    def part(self, rows: slice) -> DenseTensor:
        """Return some of a matrix's rows, still on disk."""
        first, end, _ = rows.indices(self.shape[0])
        read = reader_within(self.read, first, end)
        return DenseTensor((end - first, *self.shape[1:]), self.kind, read)

    def blocks(self) -> None:
        """Return ``None``: nothing here is quantised."""
