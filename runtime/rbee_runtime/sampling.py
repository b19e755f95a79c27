"""From logits to token ids, every row of a step with its own parameters."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.request import SamplingParams

_HEAD = 256
"""Candidates sorted at first when looking for a nucleus; most distributions need no more."""


class RowSampler:
    """What sampling remembers of one request: parameters, random stream, tokens seen.

    Attributes:
        params: How to draw.
        seed: The seed in force, given or drawn.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        # Counter-based and keyed by the seed alone: a request draws the same numbers in any batch.
        self._random = np.random.Generator(np.random.Philox(key=self.seed))
        self._seen = set(prompt) if params.repetition_penalty != 1.0 else None

    def penalize(self, logits: NDArray[np.float32]) -> None:
        """Apply the repetition penalty to ``float32[vocab]``, in place."""
        if not self._seen:
            return
        seen = np.fromiter(self._seen, np.intp, len(self._seen))
        values = logits[seen]
        penalty = np.float32(self.params.repetition_penalty)
        logits[seen] = np.where(values > 0, values / penalty, values * penalty)

    def record(self, token: int) -> None:
        """Remember a token that was drawn."""
        if self._seen is not None:
            self._seen.add(token)

    def uniform(self) -> float:
        """Return the next number of the request's random stream, in [0, 1)."""
        return self._random.random()


def sample(logits: NDArray[np.float32], rows: Sequence[RowSampler]) -> list[int]:
    """Draw one token for each row.

    Args:
        logits: ``float32[rows, vocab]``; overwritten.
        rows: One per row.

    Returns:
        A token id per row, recorded in its :class:`RowSampler`.
    """
    for row, scores in zip(rows, logits, strict=True):
        row.penalize(scores)
    tokens: list[int] = logits.argmax(axis=-1).tolist()
    for i, row in enumerate(rows):
        if row.params.temperature > 0.0:
            tokens[i] = _draw(logits[i], tokens[i], row)
        row.record(tokens[i])
    return tokens


def _draw(logits: NDArray[np.float32], best: int, row: RowSampler) -> int:
    params = row.params
    logits -= logits[best]
    logits /= np.float32(params.temperature)
    weights = np.exp(logits, out=logits)  # relative to the most likely token, whose weight is 1
    if params.top_k == 0 and params.top_p >= 1.0:
        if params.min_p > 0.0:
            weights[weights < np.float32(params.min_p)] = 0.0
        return _pick(weights.cumsum(dtype=np.float64), row.uniform())
    kept, total = _most_likely(weights, params.top_k)
    candidates = _nucleus(weights, kept, params.top_p * total)
    chosen = weights[candidates]
    chosen = chosen[chosen >= params.min_p]
    return int(candidates[_pick(chosen.cumsum(dtype=np.float64), row.uniform())])


def _most_likely(weights: NDArray[np.float32], top_k: int) -> tuple[NDArray[np.intp] | None, float]:
    """Return the ids of the ``top_k`` largest weights, or ``None`` for all, and their sum."""
    if top_k == 0 or top_k >= weights.size:
        return None, float(weights.sum(dtype=np.float64))
    kept = np.argpartition(weights, -top_k)[-top_k:]
    return kept, float(weights[kept].sum(dtype=np.float64))


def _nucleus(
    weights: NDArray[np.float32], among: NDArray[np.intp] | None, mass: float
) -> NDArray[np.intp]:
    """Return the fewest ids, largest weight first, whose weights reach ``mass``; at least one.

    Exact: only the head of the distribution is sorted, and it grows until it holds enough.
    """
    pool = weights if among is None else weights[among]
    size = _HEAD
    while True:
        if size >= pool.size:
            head = np.arange(pool.size)
        else:
            head = np.argpartition(pool, -size)[-size:]
        # Equal weights are ordered by id, so that the result does not hang on the partition.
        ids = head if among is None else among[head]
        order = np.lexsort((ids, -pool[head]))
        mass_so_far = pool[head][order].cumsum(dtype=np.float64)
        if mass_so_far[-1] >= mass or size >= pool.size:
            count = int(np.searchsorted(mass_so_far, mass)) + 1
            return ids[order[:count]]
        size *= 8


def _pick(cumulative: NDArray[np.float64], uniform: float) -> int:
    """Return the first index whose cumulative weight exceeds the drawn fraction of the total."""
    at = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(at, cumulative.size - 1)
