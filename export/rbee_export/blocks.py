"""Block-quantised matrices, in the layout ONNX Runtime's ``MatMulNBits`` reads.

A row of ``K`` weights is cut into blocks of 32, or of 16 where a source's own blocks are no longer.
Element ``j`` of a block stands for

    w = (q[j] - z) * d + c,    z = 2 ** (bits - 1)

with an unsigned integer ``q``, the block's scale ``d`` and, for sources whose blocks have a minimum
(``w = p * d + m``, GGUF's Q4_1), its offset ``c``. Since

    x @ w.T = x @ ((q - z) * d).T + blocksum(x) @ c.T,    blocksum(x)[b] = sum of x over block b

an offset costs one small matrix product and no precision. The source's integers ``p`` are stored as
``q = p - h + z``, ``h`` the middle of their range, and ``c = m + h * d``: the kernel rounds
activations to eight bits, and its error grows with ``|q - z| * d``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbee_export.cores import each

BLOCK = 32
"""Weights per block that this module quantises to, along the input dimension."""

Bits = Literal[4, 8]

_LEAST_HALF, _MOST_HALF = np.float32(2.0**-14), np.float32(65504)
"""The ends of a 16-bit float's normal numbers."""

AT_ONCE = 1 << 18
"""Weights worked on together. Bounds the temporary arrays, and keeps them in the processor's
cache.
"""


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """A quantised matrix of ``N`` outputs by ``K`` inputs.

    Attributes:
        bits: Width of an element.
        packed: ``uint8[N, K / block, block * bits / 8]``; at 4 bits the even element has the low
            nibble.
        scales: ``float32[N, K / block]``, the ``d`` above.
        offsets: ``float32[N, K / block]``, the ``c`` above, or ``None`` for all zero.
        how: How it came from its source's values: ``exact`` stands for them as they were, but for
            the rounding of ``c`` to float32; ``rounded`` is near them; ``calibrated`` has products
            near theirs, see :mod:`rbee_export.rounding`.
    """

    bits: Bits
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None
    how: Literal["exact", "rounded", "calibrated"] = "rounded"

    @property
    def block(self) -> int:
        """Weights per block."""
        return int(self.packed.shape[2]) * 8 // self.bits

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, K)``."""
        return self.packed.shape[0], self.packed.shape[1] * self.block

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        offsets = 0 if self.offsets is None else self.offsets.nbytes
        return self.packed.nbytes + self.scales.nbytes + offsets

    @property
    def description(self) -> str:
        """How it holds its source, e.g. ``8-bit, blocks of 32, offsets, exact``."""
        offsets = "" if self.offsets is None else "offsets, "
        return f"{self.bits}-bit, blocks of {self.block}, {offsets}{self.how}"

    def elements(self, rows: slice = slice(None)) -> NDArray[np.uint8]:
        """Return the unpacked integers ``q`` of some rows, ``uint8[rows, K / block, block]``."""
        packed = self.packed[rows]
        if self.bits == 8:
            return packed
        q = np.empty((*packed.shape[:2], self.block), np.uint8)
        q[..., 0::2] = packed & 0x0F
        q[..., 1::2] = packed >> 4
        return q

    def dequantize(self) -> NDArray[np.float32]:
        """Return the matrix it stands for, ``float32[N, K]``.

        An exact matrix gives the source's own values bit for bit (zeros but for their sign) where
        it has no offsets, or where its offsets needed no rounding.
        """
        rows, columns = self.shape
        weights = np.empty((rows, columns), np.float32)
        zero = np.float32(1 << (self.bits - 1))
        with np.errstate(invalid="ignore", over="ignore"):
            for part in row_ranges(rows, columns):
                w = weights[part].reshape(-1, *self.scales.shape[1:], self.block)
                np.subtract(self.elements(part), zero, out=w)
                w *= self.scales[part][..., None]
                if self.offsets is not None:
                    w += self.offsets[part][..., None]
        return weights

    def with_positive_scales(self, least: float) -> BlockMatrix:
        """Return the matrix without scales of zero or below, for kernels that take no others.

        Of a block with a negative one, ``q' = 2 z - 1 - q`` makes ``(q - z) d + c = (q' - z) (-d) +
        (c - d)``. A block whose scale is nearer to zero than ``least`` becomes its offset.
        """
        negative, none = self.scales <= -least, np.abs(self.scales) < least
        if not (negative | none).any():
            return self
        # Every bit of q exchanged gives 2 z - 1 - q; z is the highest bit alone.
        packed = np.where(negative[..., None], ~self.packed, self.packed)
        packed[none] = 0x80 if self.bits == 8 else 0x88
        offsets = self.offsets
        if negative.any():
            offsets = np.where(negative, -self.scales, np.float32(0))
            offsets += 0 if self.offsets is None else self.offsets
        scales = np.where(none, np.float32(1), np.abs(self.scales))
        return BlockMatrix(self.bits, packed, scales, offsets, self.how)


def row_ranges(rows: int, columns: int, values: int = AT_ONCE) -> Iterator[slice]:
    """Cut the rows of a matrix into ranges small enough to work on together."""
    step = max(1, values // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def pack(q: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    """Pack integers ``uint8[N, blocks, block]`` into ``uint8[N, blocks, block * bits / 8]``."""
    if bits == 8:
        return np.ascontiguousarray(q)
    return (q[..., 0::2] | (q[..., 1::2] << 4)).astype(np.uint8, copy=False)


def concatenate(matrices: Sequence[BlockMatrix]) -> BlockMatrix | None:
    """Stack matrices along their outputs, so that one product serves them all.

    Returns:
        The stack, exact or calibrated if all of them are, or ``None`` where they differ in bits, in
        the size of their blocks or in having offsets.
    """
    first = matrices[0]
    offsets = [m.offsets for m in matrices if m.offsets is not None]
    kinds = {(m.bits, m.block) for m in matrices}
    if len(kinds) > 1 or len(offsets) not in (0, len(matrices)):
        return None
    return BlockMatrix(
        first.bits,
        np.concatenate([m.packed for m in matrices]),
        np.concatenate([m.scales for m in matrices]),
        np.concatenate(offsets) if offsets else None,
        how=first.how if all(m.how == first.how for m in matrices) else "rounded",
    )


def quantize(weights: NDArray[np.float32], bits: Bits) -> BlockMatrix:
    """Quantise ``float32[N, K]`` symmetrically in blocks of 32.

    Each block's scale first maps its largest element onto the end of the integer range, then is
    refitted by least squares to the integers this gave: ``d = sum(w * q) / sum(q * q)``, and
    rounded by :func:`shortened`.

    Raises:
        ValueError: K is not a multiple of 32.
    """
    rows, columns = weights.shape
    if columns % BLOCK:
        raise ValueError(f"input dimension {columns} is not a multiple of {BLOCK}")
    packed = np.empty((rows, columns // BLOCK, BLOCK * bits // 8), np.uint8)
    scales = np.empty((rows, columns // BLOCK), np.float32)
    for part in row_ranges(rows, columns):
        blocks = weights[part].reshape(-1, columns // BLOCK, BLOCK).astype(np.float32, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):  # the scale of no numbers is none either
            q, scales[part] = _quantize_blocks(blocks, bits)
        packed[part] = pack(q, bits)
    return BlockMatrix(bits, packed, scales)


def quantize_pieces(
    pieces: Iterable[tuple[slice, NDArray[np.float32]]], shape: tuple[int, int], bits: Bits
) -> BlockMatrix:
    """Quantise a matrix that comes in ranges of rows; see :func:`quantize`."""
    rows, columns = shape
    packed = np.empty((rows, columns // BLOCK, BLOCK * bits // 8), np.uint8)
    scales = np.empty((rows, columns // BLOCK), np.float32)

    def work(piece: tuple[slice, NDArray[np.float32]]) -> None:
        part, weights = piece
        matrix = quantize(weights, bits)
        packed[part], scales[part] = matrix.packed, matrix.scales

    each(work, pieces)
    return BlockMatrix(bits, packed, scales)


def _quantize_blocks(
    blocks: NDArray[np.float32], bits: Bits
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    widest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], axis=-1)
    # At 4 bits the range is lopsided (-8 .. 7): give the largest element its long side.
    scale = widest / np.float32(low) if bits == 4 else np.abs(widest) / np.float32(high)
    q = np.zeros_like(blocks)
    np.divide(blocks, scale, out=q, where=scale != 0)
    np.clip(np.rint(q, out=q), low, high, out=q)
    norm = np.einsum("nbk,nbk->nb", q, q)
    fitted = np.einsum("nbk,nbk->nb", blocks, q)
    np.divide(fitted, norm, out=fitted, where=norm != 0)
    return (q - low).astype(np.uint8), shortened(fitted)


def shortened(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round scales to what 16 bits hold, which is what a kernel then reads of them.

    A scale moves by at most one part in 2048. Those beyond a 16-bit float's normal numbers, where
    it would be more, stay as they are.
    """
    size = np.abs(scales)
    normal = (size >= _LEAST_HALF) & (size <= _MOST_HALF)
    return np.where(normal, np.where(normal, scales, 0).astype(np.float16), scales)
