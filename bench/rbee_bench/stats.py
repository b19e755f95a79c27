"""What a handful of noisy measurements says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NOISY = 0.15
"""Spread above which a figure says more about the machine than about what was measured."""

CLOSE = 0.05
"""How far apart two runs may find the same ratio."""

_SURE = 0.8


def spread(values: Sequence[float]) -> float:
    """Return the interquartile range over the median; 0.0 for a single value.

    The quartiles, not the extremes: one interrupted round in six does not make a run noisy.
    """
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], confidence: float
) -> tuple[float, float]:
    """Return bounds that hold ``ours / theirs``, as sure as ``confidence``.

    The two of a pair were measured next to each other, so the logarithm of their ratio strays as
    far up as down. Then the means of all pairs of those logarithms, each with itself included, hold
    their centre between the ``k``-th from either end, where ``k`` is the largest with
    ``2 * P(W < k) <= 1 - confidence`` for ``W`` the signed-rank statistic of that many (Wilcoxon's
    test turned round; Hollander and Wolfe, Nonparametric Statistical Methods, 3.3). That needs a
    third fewer rounds than bounds of the median, which make no use of the symmetry.

    Infinite, and 0, where there are too few pairs for any: 8 are needed for 0.99, 4 for 0.8.

    Raises:
        ValueError: The two were not measured in the same rounds.
    """
    logs = np.log(np.asarray(ours, float)) - np.log(np.asarray(theirs, float))
    count = len(logs)
    rank = int(np.searchsorted(np.cumsum(_signed_ranks(count)), (1 - confidence) / 2, "right"))
    if rank == 0:
        return 0.0, math.inf
    rows, columns = np.triu_indices(count)
    means = np.sort((logs[rows] + logs[columns]) / 2)
    return float(np.exp(means[rank - 1])), float(np.exp(means[-rank]))


def _signed_ranks(count: int) -> NDArray[np.float64]:
    """Return the probability of each sum of those of the numbers 1 to ``count`` that heads choose.

    ``float64[count * (count + 1) / 2 + 1]``: the null distribution of Wilcoxon's statistic.
    """
    chances = np.ones(1)
    for rank in range(1, count + 1):
        without = np.pad(chances, (0, rank))
        chosen = np.pad(chances, (rank, 0))
        chances = (without + chosen) / 2
    return chances


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of ``ours / theirs``, round by round.

    The two halves of a pair were measured next to each other, so a slow minute slows both and
    leaves their ratio alone.

    Raises:
        ValueError: The two were not measured in the same rounds.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def halves(rounds: int) -> tuple[int, int]:
    """Return how many rounds come before and after engines are opened anew."""
    return rounds - rounds // 2, rounds // 2


def doubtful(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether another run may well find a ratio that is more than ``CLOSE`` away.

    So it is when the interval that holds the ratio with 80 % confidence is wider than that: two
    runs whose intervals are as wide then differ by more in less than one case in twenty. And so it
    is when the two halves of this run, each with processes of its own, are that far apart.
    """
    low, high = ratio_interval(ours, theirs, _SURE)
    if high > low * (1 + CLOSE):
        return True
    first, _ = halves(len(ours))
    ratios = paired_ratio(ours[:first], theirs[:first]), paired_ratio(ours[first:], theirs[first:])
    return max(ratios) > min(ratios) * (1 + CLOSE)
