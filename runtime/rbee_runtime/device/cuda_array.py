"""Memory of a GPU in a shape: addresses, sizes and strides, and nothing to read them with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

_WIDTHS = {"bfloat16": 2}
"""Bytes of the types that NumPy has not."""


def item_bytes(dtype: str) -> int:
    """Return the bytes of an element of a type."""
    return _WIDTHS.get(dtype) or np.dtype(dtype).itemsize


@dataclass(frozen=True, slots=True)
class CudaArray:
    """A view of device memory.

    Attributes:
        address: Of its first element.
        shape: Elements along each axis.
        strides: Bytes between neighbours along each axis.
        dtype: Element type, e.g. ``float16``.
        owner: What frees the memory when no view is left.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    owner: object = None

    @classmethod
    def of(cls, address: int, shape: Sequence[int], dtype: str, owner: object = None) -> Self:
        """Return contiguous memory from an address on."""
        strides, step = [], item_bytes(dtype)
        for size in reversed(shape):
            strides.append(step)
            step *= size
        return cls(address, tuple(shape), tuple(reversed(strides)), dtype, owner)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * item_bytes(self.dtype)

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie side by side."""
        return self.strides == CudaArray.of(0, self.shape, self.dtype).strides or not self.nbytes

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> Self:
        """Return a part: integers and slices without a step, as NumPy takes them.

        Raises:
            IndexError: It is not inside, or not of this form.
        """
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > len(self.shape):
            raise IndexError(f"{len(keys)} indices into {len(self.shape)} axes")
        address, shape, strides = self.address, [], []
        for at, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            part = keys[at] if at < len(keys) else slice(None)
            if isinstance(part, slice):
                start, stop, step = part.indices(size)
                if step != 1:
                    raise IndexError("parts with a step are not supported")
                shape.append(max(0, stop - start))
                strides.append(stride)
            elif 0 <= part < size:
                start = int(part)
            else:
                raise IndexError(f"index {part} is outside of axis {at} with {size}")
            address += start * stride
        return type(self)(address, tuple(shape), tuple(strides), self.dtype, self.owner)


@dataclass(frozen=True, slots=True)
class Strip:
    """A copy of rows in slices, as the CUDA runtime makes it at once.

    Attributes:
        target: Address to write.
        source: Address to read.
        width: Bytes of a row.
        rows: Rows of a slice.
        slices: Slices.
        target_steps: Bytes from row to row, and from slice to slice, where it writes.
        source_steps: Alike, where it reads.
    """

    target: int
    source: int
    width: int
    rows: int
    slices: int
    target_steps: tuple[int, int]
    source_steps: tuple[int, int]


def strips(target: CudaArray, source: CudaArray) -> list[Strip]:
    """Return the copies that bring one view to another of the same shape and type.

    Axes that follow one another without a gap in both are taken as one; what then has more than
    three axes takes several copies. So do slices that do not begin a whole number of rows apart.

    Raises:
        ValueError: The views differ in shape or type.
    """
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(
            f"{source.dtype} of {source.shape} cannot be copied to {target.dtype} of {target.shape}"
        )
    if target.nbytes == 0:
        return []
    width = item_bytes(target.dtype)
    axes = [(width, 1, 1)]  # from the innermost on: size, step in the target, step in the source
    for size, t, s in zip(
        reversed(target.shape), reversed(target.strides), reversed(source.strides), strict=True
    ):
        inner, inner_t, inner_s = axes[-1]
        if size == 1:
            continue
        if t == inner * inner_t and s == inner * inner_s:
            axes[-1] = (inner * size, inner_t, inner_s)
        else:
            axes.append((size, t, s))
    axes += [(1, 0, 0)] * (3 - len(axes))
    (width, _, _), (rows, row_t, row_s), (slices, slice_t, slice_s) = axes[:3]
    outer = axes[3:]
    if slices > 1 and (slice_t % row_t or slice_s % row_s):
        outer = axes[2:]
        slices = 1
    starts = [(target.address, source.address)]
    for size, t, s in outer:
        starts = [(a + i * t, b + i * s) for a, b in starts for i in range(size)]
    return [Strip(a, b, width, rows, slices, (row_t, slice_t), (row_s, slice_s)) for a, b in starts]
