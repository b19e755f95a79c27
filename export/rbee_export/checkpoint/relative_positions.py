"""Numbers that scores have added by how far apart tokens are (Raffel et al. 2020)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BUCKETS = 32
_FARTHEST = 128
"""A distance from which on all share a bucket."""


def by_distance(biases: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """Return what scores have added, ``float32[heads, 2 * longest - 1]``.

    It begins with keys ``longest - 1`` before the query, and ends with keys as far behind it.

    Args:
        biases: Those of each bucket, ``float32[BUCKETS, heads]``: half of them for keys before the
            query and for itself, half for those behind it; of either half, one bucket for each of
            the nearest keys, and then wider and wider ones.
        longest: Tokens of a text at most.
    """
    half = BUCKETS // 2
    near = half // 2
    distance = np.arange(longest)
    # In float32, as those who trained such models did.
    ratio = np.log(np.maximum(distance, near).astype(np.float32) / np.float32(near))
    steps = ratio / np.float32(math.log(_FARTHEST / near)) * np.float32(half - near)
    far = np.minimum(near + steps.astype(np.int64), half - 1)
    buckets = np.where(distance < near, distance, far)
    before, behind = buckets[:0:-1], half + buckets[1:]
    table: NDArray[np.float32] = biases[np.concatenate([before, buckets[:1], behind])].T
    return np.ascontiguousarray(table)
