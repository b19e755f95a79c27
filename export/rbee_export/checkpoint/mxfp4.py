"""Matrices of 4-bit floating-point numbers in blocks of 32, as gpt-oss is published in safetensors.

They are in two tensors of bytes: ``{name}_blocks``, ``uint8[experts, rows, K / 32, 16]``, two
numbers to a byte, the even one in its low nibble; and ``{name}_scales``, ``uint8[experts, rows, K /
32]``, powers of two (OCP Microscaling Formats 1.0). GGML's blocks of the same type begin with the
scale, and have the first sixteen numbers in low nibbles and the others in high ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from rbee_export.blocks import BlockMatrix, row_ranges
from rbee_export.checkpoint.hf_gpt_oss import BLOCKS, SCALES
from rbee_export.checkpoint.layout import Stored
from rbee_export.checkpoint.tensor import PIECE, gathered, reader_within
from rbee_export.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from rbee_export.checkpoint.gguf_tensor import GgufTensor

Bytes = NDArray[np.uint8]

BLOCK = 32
"""Numbers that share a scale."""


@dataclass(frozen=True, slots=True)
class Mxfp4Tensor:
    """A matrix, still on disk; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Attributes:
        shape: Outputs first.
        read: Reads a range of its rows: blocks, ``uint8[n, K / 32, 16]``, and scales, ``uint8[n,
            K / 32]``.
        kind: ``MXFP4``.
    """

    shape: tuple[int, ...]
    read: Callable[[slice], tuple[Bytes, Bytes]] = field(repr=False)
    kind: str = "MXFP4"

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        return gathered(self)

    def pieces(self, values: int = PIECE) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of rows with their values."""
        for rows in row_ranges(self.shape[0], self.shape[1], values):
            yield rows, self._as_gguf(rows).dense()

    def part(self, rows: slice) -> Mxfp4Tensor:
        """Return some of the rows, still on disk."""
        first, end, _ = rows.indices(self.shape[0])
        read = reader_within(self.read, first, end)
        return Mxfp4Tensor((end - first, *self.shape[1:]), read)

    def blocks(self) -> BlockMatrix | None:
        """Return its own blocks, unchanged in value."""
        return self._as_gguf(slice(0, self.shape[0])).blocks()

    def _as_gguf(self, rows: slice) -> GgufTensor:
        from gguf import GGMLQuantizationType as Kind

        from rbee_export.checkpoint.gguf_tensor import GgufTensor

        blocks, scales = self.read(rows)
        nibbles = np.stack([blocks & 0x0F, blocks >> 4], axis=-1).reshape(*scales.shape, BLOCK)
        halves = nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4
        data = np.concatenate([scales[..., None], halves], axis=-1)
        shape = (len(data), self.shape[1])
        return GgufTensor(shape, Kind.MXFP4, data.reshape(len(data), -1))


def read_experts(path: Path, shards: Mapping[str, Path], place: Stored) -> Sequence[Mxfp4Tensor]:
    """Return a matrix of each expert, all of one shape, still on disk.

    Args:
        path: The model's directory.
        shards: The file of each tensor.
        place: Where they are: the tensor of blocks.

    Raises:
        CheckpointError: A tensor is missing, or of a shape that is not theirs.
        UnsupportedModel: One is not of bytes.
    """
    names = (place.name, place.name.removesuffix(BLOCKS) + SCALES)
    shapes = []
    for name in names:
        if name not in shards:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        with safe_open(shards[name], framework="np") as file:
            view = file.get_slice(name)
            shapes.append(tuple(view.get_shape()))
            if view.get_dtype() != "U8":
                raise UnsupportedModel(f"{shards[name]}: tensor {name} is not of bytes")
    blocks, scales = shapes
    if len(scales) != 3 or scales[0] != place.experts or blocks != (*scales, BLOCK // 2):
        raise CheckpointError(
            f"{path}: tensors {' and '.join(names)} do not hold the matrices of {place.experts} "
            "experts"
        )
    start, stop, step = (place.rows or slice(None)).indices(scales[1])
    rows = range(start, stop, step)

    def read(expert: int, part: slice) -> tuple[Bytes, Bytes]:
        own = rows[part]
        found = []
        for name in names:
            with safe_open(shards[name], framework="np") as file:
                run = file.get_slice(name)[expert, own.start : own[-1] + 1]
            found.append(run[:: own.step])
        return found[0], found[1]

    shape = (len(rows), scales[2] * BLOCK)
    return [Mxfp4Tensor(shape, partial(read, expert)) for expert in range(scales[0])]
