"""What a handful of noisy measurements says."""

from __future__ import annotations

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


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of ``ours / theirs``, round by round.

    The two halves of a pair were measured next to each other, so a slow minute slows both and
    leaves their ratio alone.

    Raises:
        ValueError: The two were not measured in the same rounds.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
