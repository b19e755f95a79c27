"""Scales and offsets as GGUF's types have them, whose kernels hold minima in place of offsets.

An offset is a block's minimum and ``middle`` scales, where the middle of the type's integers is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf.quants import IQ4_NL, MXFP4
from numpy.typing import NDArray

GROUP = 256
"""Inputs of a group of blocks."""

MIDDLES = ((4, 8), (8, 16), (8, 2))
"""Bits of integers and where their middle is: Q4_1 and Q4_K; Q5_1 and Q5_K; Q2_K."""


TABLES = {
    "IQ4_NL": np.array(IQ4_NL.kvalues, np.int8).view(np.uint8) ^ 0x80,
    "MXFP4": np.array(MXFP4.kvalues, np.int8).view(np.uint8) ^ 0x80,
}
"""What four bits of a type stand for, as integers of eight around 128."""


def of_six_bits(rng: np.random.Generator, *shape: int) -> NDArray[np.uint8]:
    """Draw integers as those of Q5_K and Q6_K are in eight bits, the ends among them."""
    drawn = rng.integers(96, 160, shape, np.uint8)
    drawn.flat[:2] = 96, 159
    return drawn


def of_a_table(rng: np.random.Generator, kind: str, *shape: int) -> NDArray[np.uint8]:
    """Draw integers as those of IQ4_NL or MXFP4 are in eight bits."""
    drawn: NDArray[np.uint8] = rng.choice(TABLES[kind], shape)
    return drawn


def in_powers(rng: np.random.Generator, integers: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Draw scales ``float32[n, blocks]`` as MXFP4 has them, some of them too small for 16 bits.

    A tenth of the blocks is set to zeros. Their scales are the smallest there is.
    """
    exponents = rng.integers(-30, -8, integers.shape[:2])
    zero = rng.random(exponents.shape) < 0.1
    integers[zero], exponents[zero] = 128, -128
    return np.exp2(exponents.astype(np.float64)).astype(np.float32)


def in_halves(
    rng: np.random.Generator, n: int, k: int, block: int, middle: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw scales and offsets, ``float32[n, k / block]`` each, of 16-bit scales and minima.

    Some are zero, and some less than 16-bit floats have normal numbers for.
    """

    def halves(low: float) -> NDArray[np.float32]:
        drawn = rng.uniform(low, 0.02, (n, k // block))
        drawn *= rng.choice([0, 2.0**-14, 2.0**-3, 1], drawn.shape, p=[0.05, 0.1, 0.15, 0.7])
        return drawn.astype(np.float16).astype(np.float32)

    scales = halves(1e-3)
    return scales, halves(-0.1) + np.float32(middle) * scales


def factored(
    rng: np.random.Generator, n: int, k: int, block: int, middle: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw scales and offsets, ``float32[n, k / block]`` each, as K-quants have them.

    Scales and minima are products of a group's 16-bit float and an integer of a block's own.
    Of every group the largest integer is 63, -128, -32 or 15, which quantisers scale to, or
    another; some groups are of zeros alone.
    """
    groups, each = k // GROUP, GROUP // block

    def products() -> NDArray[Any]:
        factors = rng.uniform(1e-6, 1e-3, (n, groups, 1)).astype(np.float16)
        factors[rng.random(factors.shape) < 0.1] = 0
        most = rng.choice([63, -128, -32, 15, 101], (n, groups, 1))
        integers = np.rint(most * rng.random((n, groups, each)))
        integers[..., :1] = most
        found: NDArray[Any] = (factors.astype(np.float64) * integers).reshape(n, -1)
        return found

    scales, minima = products(), products()
    return scales.astype(np.float32), (middle * scales + minima).astype(np.float32)
