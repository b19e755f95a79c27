"""Log probabilities of tokens, from logits. Slow but the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LogSoftmax(NamedTuple):
    """What is to be known of the log probabilities of a row of logits: natural logarithms.

    Attributes:
        whole: The logarithm of the sum of ``exp(logits)``: what is less than a logit by its log
            probability. NaN where the largest logit is not finite.
        likeliest: The tokens with the largest, in their order; of equal ones the lowest ids first.
        values: Theirs.
    """

    whole: float
    likeliest: list[int]
    values: list[float]


Measure = Callable[[NDArray[np.float32], int], LogSoftmax]
"""What finds log probabilities; see :func:`log_softmax`."""


def log_softmax(logits: NDArray[np.float32], top: int) -> LogSoftmax:
    """Return log probabilities, ``x - log(sum(exp(logits)))``, to within 1e-5.

    Args:
        logits: ``float32[vocab]``.
        top: How many of the likeliest, at most ``vocab``.
    """
    largest = logits.max()
    if not np.isfinite(largest):
        return LogSoftmax(math.nan, [], [])
    whole = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    likeliest = np.empty(0, np.intp)
    if top > 0:
        head = np.flatnonzero(logits >= np.partition(logits, -top)[-top])
        likeliest = head[np.argsort(-logits[head], kind="stable")[:top]]
    values = logits[likeliest].astype(np.float64) - whole
    return LogSoftmax(whole, likeliest.tolist(), values.tolist())
