"""Block-quantised matrices, in the layout ONNX Runtime's ``MatMulNBits`` reads.

A row of ``K`` weights is cut into blocks of 32. Element ``j`` of a block stands for

    w = (q[j] - z) * d + c,    z = 2 ** (bits - 1)

with an unsigned integer ``q``, the block's scale ``d`` and, for sources whose blocks have a minimum
(``w = q * d + m``, GGUF's Q4_1), its offset ``c = m + z * d``. Since

    x @ w.T = x @ ((q - z) * d).T + blocksum(x) @ c.T,    blocksum(x)[b] = sum of x over block b

an offset costs one small matrix product and no precision. Centring on ``z`` rather than storing
``m``
matters: the kernel rounds activations to eight bits, and its error grows with ``|q - z| * d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Weights per block, along the input dimension."""

Bits = Literal[4, 8]

_ROWS_AT_ONCE = 4096
"""Rows quantised together, which bounds the temporary arrays for a vocabulary-sized matrix."""


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """A quantised matrix of ``N`` outputs by ``K`` inputs.

    Attributes:
        bits: Width of an element.
        packed: ``uint8[N, K / 32, 4 * bits]``; at 4 bits the even element has the low nibble.
        scales: ``float32[N, K / 32]``, the ``d`` above.
        offsets: ``float32[N, K / 32]``, the ``c`` above, or ``None`` for all zero.
    """

    bits: Bits
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, K)``."""
        return self.packed.shape[0], self.packed.shape[1] * BLOCK

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        offsets = 0 if self.offsets is None else self.offsets.nbytes
        return self.packed.nbytes + self.scales.nbytes + offsets

    def elements(self) -> NDArray[np.uint8]:
        """Return the unpacked integers ``q``, ``uint8[N, K / 32, 32]``."""
        if self.bits == 8:
            return self.packed
        q = np.empty((*self.packed.shape[:2], BLOCK), np.uint8)
        q[..., 0::2] = self.packed & 0x0F
        q[..., 1::2] = self.packed >> 4
        return q

    def dequantize(self) -> NDArray[np.float32]:
        """Return the matrix it stands for, ``float32[N, K]``.

        With offsets this evaluates ``q * d + (c - z * d)``, the order of operations of the source,
        so that the result equals the source's own dequantisation bit for bit.
        """
        q = self.elements().astype(np.float32)
        zero = np.float32(1 << (self.bits - 1))
        d = self.scales[..., None]
        if self.offsets is None:
            w = (q - zero) * d
        else:
            w = q * d + (self.offsets[..., None] - zero * d)
        return w.reshape(self.shape)


def pack(q: NDArray[np.uint8], bits: Bits) -> NDArray[np.uint8]:
    """Pack integers ``uint8[N, blocks, 32]`` into ``uint8[N, blocks, 4 * bits]``."""
    if bits == 8:
        return np.ascontiguousarray(q)
    return (q[..., 0::2] | (q[..., 1::2] << 4)).astype(np.uint8, copy=False)


def concatenate(matrices: Sequence[BlockMatrix]) -> BlockMatrix | None:
    """Stack matrices along their outputs, so that one product serves them all.

    Returns:
        The stack, or ``None`` where they differ in bits or in having offsets.
    """
    first = matrices[0]
    offsets = [m.offsets for m in matrices if m.offsets is not None]
    if len(offsets) not in (0, len(matrices)) or any(m.bits != first.bits for m in matrices):
        return None
    return BlockMatrix(
        first.bits,
        np.concatenate([m.packed for m in matrices]),
        np.concatenate([m.scales for m in matrices]),
        np.concatenate(offsets) if offsets else None,
    )


def quantize(weights: NDArray[np.float32], bits: Bits) -> BlockMatrix:
    """Quantise ``float32[N, K]`` symmetrically in blocks of 32.

    Each block's scale first maps its largest element onto the end of the integer range, then is
    refitted by least squares to the integers this gave: ``d = sum(w * q) / sum(q * q)``. The refit
    never increases the squared error.

    Raises:
        ValueError: K is not a multiple of 32.
    """
    rows, columns = weights.shape
    if columns % BLOCK:
        raise ValueError(f"input dimension {columns} is not a multiple of {BLOCK}")
    packed = np.empty((rows, columns // BLOCK, BLOCK * bits // 8), np.uint8)
    scales = np.empty((rows, columns // BLOCK), np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        blocks = weights[part].reshape(-1, columns // BLOCK, BLOCK).astype(np.float32, copy=False)
        q, scales[part] = _quantize_blocks(blocks, bits)
        packed[part] = pack(q, bits)
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
    return (q - low).astype(np.uint8), fitted
