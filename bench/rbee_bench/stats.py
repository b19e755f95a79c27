"""What a handful of noisy measurements says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

NOISY = 0.15
"""Spread above which a figure says more about the machine than about what was measured."""


def spread(values: Sequence[float]) -> float:
    """Return the interquartile range over the median; 0.0 for a single value.

    The quartiles, not the extremes: one interrupted round in six does not make a run noisy.
    """
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def median_interval(values: Sequence[float], confidence: float = 0.99) -> tuple[float, float]:
    """Return bounds that hold the median of where values come from, as sure as ``confidence``.

    They are two of the values, whatever their distribution: the ``k``-th from either end, where
    ``k`` is the largest with ``2 * P(X < k) <= 1 - confidence`` for ``X`` binomial in ``n`` trials
    of one half (the sign test's interval; Conover, Practical Nonparametric Statistics, 3.2).
    Infinite where there are too few values for any: 8 are needed for 0.99.
    """
    count, below, rank = len(values), 0, 0
    while rank < count:
        below += math.comb(count, rank)
        if 2 * below > (1 - confidence) * 2**count:
            break
        rank += 1
    if rank == 0:
        return -math.inf, math.inf
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of ``ours / theirs``, round by round.

    The two halves of a pair were measured next to each other, so a slow minute slows both and
    leaves their ratio alone.

    Raises:
        ValueError: The two were not measured in the same rounds.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
