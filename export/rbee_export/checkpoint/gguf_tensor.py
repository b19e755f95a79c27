"""One weight of a GGUF file, read when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from rbee_export.blocks import AT_ONCE, BLOCK, BlockMatrix, quantize, row_ranges
from rbee_export.checkpoint.gguf_blocks import BLOCK_LAYOUTS
from rbee_export.checkpoint.tensor import PIECE

DENSE_KINDS = frozenset({Kind.F32, Kind.F16, Kind.BF16})
"""Floating-point types."""

# NVFP4 is missing: its tensors come with a scale in another tensor, which no block knows of.
_ROUNDED_KINDS = frozenset(
    {
        *(Kind.IQ1_S, Kind.IQ1_M, Kind.IQ2_XXS, Kind.IQ2_XS, Kind.IQ2_S),
        *(Kind.IQ3_XXS, Kind.IQ3_S, Kind.TQ1_0, Kind.TQ2_0),
    }
)
QUANTIZED_KINDS = frozenset(BLOCK_LAYOUTS) | _ROUNDED_KINDS
"""Block-quantised types: those whose blocks are held exactly, and those quantised anew."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A weight of a GGUF file; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Whatever it is asked for is worked out a few rows at a time.

    Attributes:
        shape: Outputs first.
        type: GGML's type of its elements, one of ``DENSE_KINDS`` or ``QUANTIZED_KINDS``.
        data: The file's content, memory-mapped, a row of the matrix to a row of the array:
            ``float32`` or ``float16`` for these types, ``uint8`` of each row's bytes for the
            others.
        order: Which row of ``data`` each row of the matrix is; ``None`` for the same.
    """

    shape: tuple[int, ...]
    type: Kind
    data: NDArray[np.generic]
    order: NDArray[np.intp] | None = None

    @property
    def kind(self) -> str:
        """GGML's name of the type, e.g. ``Q4_1``."""
        return self.type.name

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`; not always writable."""
        if self.type == Kind.F32 and self.order is None:
            return self.data.view(np.float32).reshape(self.shape)
        weights = np.empty(self.shape, np.float32)
        rows = weights.reshape(-1, self.shape[-1])
        for part, stored in self._parts():
            rows[part] = _dequantize(stored, self.type)
        return weights

    def pieces(self, values: int = PIECE) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of rows with their values."""
        for part, stored in self._parts(values):
            yield part, _dequantize(stored, self.type)

    def part(self, rows: slice) -> GgufTensor:
        """Return some of a matrix's rows, still on disk."""
        whole = range(*rows.indices(self.shape[0]))
        shape = (len(whole), *self.shape[1:])
        if self.order is None:
            return GgufTensor(shape, self.type, self.data[rows])
        return GgufTensor(shape, self.type, self.data, self.order[rows])

    def blocks(self) -> BlockMatrix | None:
        """Return it in blocks that ``MatMulNBits`` can hold.

        They are the file's own, unchanged in value, for the types of ``BLOCK_LAYOUTS``; other
        quantised types are quantised anew, to 8 bits in blocks of 32. ``None`` for a type that is
        not quantised, and for what is no matrix.
        """
        if self.type in DENSE_KINDS or len(self.shape) != 2:
            return None
        return self._kept() if self.type in BLOCK_LAYOUTS else self._rounded()

    def _kept(self) -> BlockMatrix:
        layout = BLOCK_LAYOUTS[self.type]
        rows, columns = self.shape
        weights, size = gguf.GGML_QUANT_SIZES[self.type]
        theirs, ours = columns // weights, columns // layout.block
        packed = np.empty((rows, ours, layout.block * layout.bits // 8), np.uint8)
        scales = np.empty((rows, ours), np.float32)
        offsets: NDArray[np.float32] | None = None
        with np.errstate(invalid="ignore", over="ignore"):
            for part, stored in self._parts():
                raw = stored.reshape(-1, theirs, size)
                layout.elements(raw, packed[part].reshape(*raw.shape[:2], -1))
                part_scales, part_offsets = layout.scales(raw)
                scales[part] = part_scales.reshape(-1, ours)
                if part_offsets is not None:
                    offsets = np.empty_like(scales) if offsets is None else offsets
                    offsets[part] = part_offsets.reshape(-1, ours)
        return BlockMatrix(layout.bits, packed, scales, offsets, how="exact")

    def _rounded(self) -> BlockMatrix:
        rows, columns = self.shape
        packed = np.empty((rows, columns // BLOCK, BLOCK), np.uint8)
        scales = np.empty((rows, columns // BLOCK), np.float32)
        for part, stored in self._parts():
            matrix = quantize(_dequantize(stored, self.type), 8)
            packed[part], scales[part] = matrix.packed, matrix.scales
        return BlockMatrix(8, packed, scales)

    def _parts(self, values: int = AT_ONCE) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Return ranges of rows with their bytes, ``uint8[rows, bytes]``."""
        *outer, columns = self.shape
        rows = math.prod(outer)
        stored = self.data.view(np.uint8).reshape(
            rows if self.order is None else len(self.data), -1
        )
        for part in row_ranges(rows, columns, values):
            yield part, stored[part] if self.order is None else stored[self.order[part]]


def _dequantize(stored: NDArray[np.uint8], kind: Kind) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):
        return gguf.dequantize(stored, kind).astype(np.float32, copy=False)
