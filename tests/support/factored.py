"""Scales and offsets as GGUF's K-quants have them: products of a group's float and an integer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 256
"""Inputs of a group of blocks."""


def factored(
    rng: np.random.Generator, n: int, k: int, bits: int, block: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw scales and offsets, ``float32[n, k / block]`` each.

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

    scales, lows = products(), products()
    return scales.astype(np.float32), (2 ** (bits - 1) * scales + lows).astype(np.float32)
