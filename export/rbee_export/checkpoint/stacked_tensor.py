"""Matrices that stand one after another as if they were one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix, concatenate
from rbee_export.checkpoint.tensor import PIECE, Tensor, gathered


@dataclass(frozen=True, slots=True)
class StackedTensor:
    """Matrices, of one shape; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Attributes:
        parts: The matrices, one or more.
    """

    parts: Sequence[Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Outputs of all of them, and the inputs that each has."""
        rows, *columns = self.parts[0].shape
        return (len(self.parts) * rows, *columns)

    @property
    def kind(self) -> str:
        """How the file stores them: each kind there is."""
        return "+".join(dict.fromkeys(part.kind for part in self.parts))

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        return gathered(self)

    def pieces(self, values: int = PIECE) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of rows with their values; none belongs to two matrices."""
        first = 0
        for part in self.parts:
            for rows, piece in part.pieces(values):
                yield slice(first + rows.start, first + rows.stop), piece
            first += part.shape[0]

    def part(self, rows: slice) -> Tensor:
        """Return some of the rows, which belong to one matrix, still on disk."""
        first, end, _ = rows.indices(self.shape[0])
        size = self.parts[0].shape[0]
        start = first // size * size
        return self.parts[first // size].part(slice(first - start, end - start))

    def blocks(self) -> BlockMatrix | None:
        """Return the blocks of all of them, where all have some of one kind."""
        blocks = [part.blocks() for part in self.parts]
        found = [each for each in blocks if each is not None]
        return concatenate(found) if len(found) == len(blocks) else None
