"""One weight of a checkpoint, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix

Read = TypeVar("Read")

PIECE = 1 << 20
"""Values read together unless told otherwise: four megabytes, once they are ``float32``."""


class Tensor(Protocol):
    """A weight, still on disk.

    Attributes:
        shape: Outputs first: ``(N, K)`` for a matrix, ``(N,)`` for a vector.
        kind: How the file stores it, e.g. ``BF16`` or ``Q4_1``.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`; they may be read-only."""
        ...

    def pieces(self, values: int = PIECE) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of rows, in order, with :meth:`dense` of each, for about so many values."""
        ...

    def part(self, rows: slice) -> Tensor:
        """Return some of a matrix's rows, still on disk."""
        ...

    def blocks(self) -> BlockMatrix | None:
        """Return a quantised matrix in blocks, or ``None`` for what is not quantised or no matrix.

        They are the file's own blocks unchanged in value where ``BlockMatrix.how`` says so;
        those of other types are the nearest ``MatMulNBits`` can hold.
        """
        ...


def gathered(tensor: Tensor) -> NDArray[np.float32]:
    """Return the values of a tensor, put together from its pieces."""
    values = np.empty(tensor.shape, np.float32)
    for rows, part in tensor.pieces():
        values[rows] = part
    return values


def reader_within(read: Callable[[slice], Read], first: int, end: int) -> Callable[[slice], Read]:
    """Return what reads ranges of those rows that begin at ``first`` and end before ``end``."""

    def read_within(rows: slice) -> Read:
        start, stop, _ = rows.indices(end - first)
        return read(slice(first + start, first + stop))

    return read_within
