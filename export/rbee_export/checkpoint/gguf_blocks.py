"""GGML's quantised blocks, rearranged into those of :class:`~rbee_export.blocks.BlockMatrix`.

The layouts are those of the structures ``block_q4_0`` to ``block_iq4_xs`` in ggml's
``ggml-common.h``. Nothing is rounded but offsets: integers stay the integers they are, and a scale
that is a product of a float16 and a small integer fits a float32. A type whose integers do not fill
their eight bits is centred in them.

Two choices follow ONNX Runtime's kernel. At 8 bits it takes blocks of 16 about as fast as blocks of
32, so Q2_K and Q6_K keep theirs; at 4 bits it needs twice the time for one row. Q3_K needs no
blocks of 16 all the same: its scales are integers of -32 to 31 times one float16, and such an
integer times an element of -4 to 3 fits eight bits once its sign is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import IQ4_NL, MXFP4
from numpy.typing import NDArray

from rbee_export.blocks import Bits

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How the blocks of one GGML type are held.

    Both functions take ``R`` rows of ``G`` GGML blocks, ``uint8[R, G, bytes]``, each of which
    becomes ``n`` of ours.

    Attributes:
        bits: Width of an element.
        block: Weights per block.
        scales: Returns scales and, where the type has minima, offsets: each ``float32[R, G, n]``.
        elements: Fills packed elements, ``uint8[R, G, n * block * bits / 8]``.
    """

    bits: Bits
    block: int
    scales: Callable[[Bytes], tuple[Floats, Floats | None]]
    elements: Callable[[Bytes, Bytes], None]


def _half(raw: Bytes, at: int) -> Floats:
    """Read the float16 at a byte offset of every block, ``float32[R, G, 1]``."""
    return np.ascontiguousarray(raw[..., at : at + 2]).view("<f2").astype(np.float32)


# Blocks of 32 with one scale each


def _scale(raw: Bytes) -> tuple[Floats, None]:
    return _half(raw, 0), None


def _scale_and_minimum(middle: int) -> Callable[[Bytes], tuple[Floats, Floats]]:
    def read(raw: Bytes) -> tuple[Floats, Floats]:
        scale = _half(raw, 0)
        return scale, _half(raw, 2) + np.float32(middle) * scale

    return read


def _q4_0(raw: Bytes, packed: Bytes) -> None:
    _pack_nibbles(raw[..., None, 2:], packed)


def _q4_1(raw: Bytes, packed: Bytes) -> None:
    _pack_nibbles(raw[..., None, 4:], packed)


def _q5_0(raw: Bytes, q: Bytes) -> None:
    _five_bits(raw[..., 6:], raw[..., 2:6], q)


def _q5_1(raw: Bytes, q: Bytes) -> None:
    _five_bits(raw[..., 8:], raw[..., 4:8], q)


def _q8_0(raw: Bytes, q: Bytes) -> None:
    np.bitwise_xor(raw[..., 2:], 0x80, out=q)  # int8 around zero, uint8 around 128


def _pack_nibbles(runs: Bytes, packed: Bytes) -> None:
    """Pack runs of bytes, ``uint8[R, G, runs, w]``, as neighbouring nibbles.

    The low nibbles of a run are ``w`` elements in a row, its high ones the ``w`` after them.
    """
    pairs = np.ascontiguousarray(runs).view("<u2")
    out = packed.reshape(*runs.shape[:-1], 2, -1)
    for half in range(2):
        nibbles = (pairs >> (4 * half)) & 0x0F0F
        nibbles |= nibbles >> 4
        out[..., half, :] = nibbles.view(np.uint8)[..., 0::2]


def _spread_nibbles(runs: Bytes, q: Bytes) -> None:
    """Spread such runs, one element to a byte."""
    out = q.reshape(*runs.shape[:-1], 2, -1)
    np.bitwise_and(runs, 0x0F, out=out[..., 0, :])
    np.right_shift(runs, 4, out=out[..., 1, :])


def _five_bits(nibbles: Bytes, fifth: Bytes, q: Bytes) -> None:
    _spread_nibbles(nibbles[..., None, :], q)
    q |= np.unpackbits(fifth, axis=-1, bitorder="little") << 4
    q += 128 - 16


# Blocks of 256 whose parts have scales of their own


def _q2_k_scales(raw: Bytes) -> tuple[Floats, Floats]:
    scales = _half(raw, 80) * (raw[..., :16] & 0x0F)
    return scales, 2 * scales - _half(raw, 82) * (raw[..., :16] >> 4)


def _q2_k(raw: Bytes, q: Bytes) -> None:
    _spread_pairs(raw[..., 16:80], q)
    q += 128 - 2


def _spread_pairs(runs: Bytes, q: Bytes) -> None:
    """Spread pairs of bits, ``uint8[R, G, 64]``: 32 bytes hold four times 32 elements."""
    halves = runs.reshape(*runs.shape[:-1], 2, 32)
    out = q.reshape(*halves.shape[:-1], 4, 32)
    for pair in range(4):
        np.right_shift(halves, 2 * pair, out=out[..., pair, :])
    q &= 3


def _q3_k_scales(raw: Bytes) -> tuple[Floats, None]:
    return np.repeat(-_half(raw, 108), 8, axis=-1), None


def _q3_k(raw: Bytes, q: Bytes) -> None:
    _spread_pairs(raw[..., 32:96], q)
    # The third bit of eight elements, 32 apart; where it is not set, the element is less by 4.
    third = np.ascontiguousarray(raw[..., :32])
    runs = q.reshape(*third.shape[:-1], 8, 32)
    for run in range(8):
        runs[..., run, :] |= ((third >> run) & 1) << 2
    signed = q.view(np.int8)
    signed -= 4
    sixteens = signed.reshape(*third.shape[:-1], 16, 16)
    sixteens *= _q3_k_turned_scales(raw[..., 96:108])[..., None]
    q ^= 0x80


def _q3_k_turned_scales(stored: Bytes) -> NDArray[np.int8]:
    """Return the sixteen scales of six bits times -1, ``int8[R, G, 16]`` of -31 to 32."""
    low, high = stored[..., :8], stored[..., 8:]
    six = np.concatenate([low & 0x0F, low >> 4], axis=-1)
    six |= np.concatenate([((high >> shift) & 3) << 4 for shift in (0, 2, 4, 6)], axis=-1)
    return np.int8(32) - six.view(np.int8)


def _six_bit_scales(middle: int) -> Callable[[Bytes], tuple[Floats, Floats]]:
    """Read eight scales and minima of Q4_K and Q5_K, six bits each in twelve bytes."""

    def read(raw: Bytes) -> tuple[Floats, Floats]:
        first, second, rest = (raw[..., at : at + 4] for at in (4, 8, 12))
        scale = np.concatenate([first & 63, (rest & 0x0F) | ((first >> 2) & 0x30)], axis=-1)
        minimum = np.concatenate([second & 63, (rest >> 4) | ((second >> 2) & 0x30)], axis=-1)
        scales = _half(raw, 0) * scale
        return scales, np.float32(middle) * scales - _half(raw, 2) * minimum

    return read


def _q4_k(raw: Bytes, packed: Bytes) -> None:
    _pack_nibbles(raw[..., 16:].reshape(*raw.shape[:-1], 4, 32), packed)


def _q5_k(raw: Bytes, q: Bytes) -> None:
    _spread_nibbles(raw[..., 48:].reshape(*raw.shape[:-1], 4, 32), q)
    fifth = np.ascontiguousarray(raw[..., 16:48])
    runs = q.reshape(*fifth.shape[:-1], 8, 32)
    for run in range(8):
        runs[..., run, :] |= ((fifth >> run) & 1) << 4
    q += 128 - 16


def _q6_k_scales(raw: Bytes) -> tuple[Floats, None]:
    return _half(raw, 208) * raw[..., 192:208].view(np.int8), None


def _q6_k(raw: Bytes, q: Bytes) -> None:
    _spread_nibbles(raw[..., :128].reshape(*raw.shape[:-1], 2, 64), q)
    high = np.ascontiguousarray(raw[..., 128:192]).reshape(*raw.shape[:-1], 2, 32)
    runs = q.reshape(*high.shape[:-1], 4, 32)
    for run in range(4):
        runs[..., run, :] |= ((high >> (2 * run)) & 3) << 4
    q += 128 - 32


# Four bits that stand for one of sixteen integers


def _iq4_nl(raw: Bytes, q: Bytes) -> None:
    _look_up(raw[..., None, 2:], IQ4_NL.kvalues, q)


def _iq4_xs_scales(raw: Bytes) -> tuple[Floats, None]:
    low = np.stack([raw[..., 4:8] & 0x0F, raw[..., 4:8] >> 4], axis=-1)
    high = np.stack([(raw[..., 2:4] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1)
    six = low.reshape(*raw.shape[:-1], 8) | (high.reshape(*raw.shape[:-1], 8) << 4)
    return _half(raw, 0) * (six.view(np.int8) - np.int8(32)), None


def _iq4_xs(raw: Bytes, q: Bytes) -> None:
    _look_up(raw[..., 8:].reshape(*raw.shape[:-1], 8, 16), IQ4_NL.kvalues, q)


def _mxfp4_scales(raw: Bytes) -> tuple[Floats, None]:
    powers: Floats = MXFP4.e8m0_to_fp32_half(np.arange(256, dtype=np.uint8))
    return powers[raw[..., :1]], None


def _mxfp4(raw: Bytes, q: Bytes) -> None:
    _look_up(raw[..., None, 1:], MXFP4.kvalues, q)


def _look_up(runs: Bytes, values: tuple[int, ...], q: Bytes) -> None:
    """Replace nibbles, in runs as above, by the sixteen values they stand for."""
    spread = np.empty_like(q)
    _spread_nibbles(runs, spread)
    np.take(np.array(values, np.int8).view(np.uint8) ^ 0x80, spread, out=q, mode="clip")


BLOCK_LAYOUTS: dict[Kind, BlockLayout] = {
    Kind.Q4_0: BlockLayout(4, 32, _scale, _q4_0),
    Kind.Q4_1: BlockLayout(4, 32, _scale_and_minimum(8), _q4_1),
    Kind.Q5_0: BlockLayout(8, 32, _scale, _q5_0),
    Kind.Q5_1: BlockLayout(8, 32, _scale_and_minimum(16), _q5_1),
    Kind.Q8_0: BlockLayout(8, 32, _scale, _q8_0),
    Kind.Q2_K: BlockLayout(8, 16, _q2_k_scales, _q2_k),
    Kind.Q3_K: BlockLayout(8, 32, _q3_k_scales, _q3_k),
    Kind.Q4_K: BlockLayout(4, 32, _six_bit_scales(8), _q4_k),
    Kind.Q5_K: BlockLayout(8, 32, _six_bit_scales(16), _q5_k),
    Kind.Q6_K: BlockLayout(8, 16, _q6_k_scales, _q6_k),
    Kind.IQ4_NL: BlockLayout(8, 32, _scale, _iq4_nl),
    Kind.IQ4_XS: BlockLayout(8, 32, _iq4_xs_scales, _iq4_xs),
    Kind.MXFP4: BlockLayout(8, 32, _mxfp4_scales, _mxfp4),
}
"""The types that are held exactly."""
