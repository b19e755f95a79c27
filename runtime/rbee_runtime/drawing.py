"""From logits to a token id each, by numbers drawn elsewhere. Slow but the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_STRETCH = 512
"""Weights summed up at a time when drawing from a whole vocabulary."""

_HEADS = (1e-2, 1e-3, 1e-5)
"""Weights, relative to the largest, above which to look for the head of a distribution."""

_FLAT = 200
"""Tokens, or weight in units of the largest, from which on there is no short head to look for."""

_FEW = 1024
"""Candidates that are sorted rather than told apart by histograms."""


class How(NamedTuple):
    """How a row is drawn.

    Attributes:
        inverse_temperature: What logits are multiplied by; 0 takes the largest of them.
        top_k: How many tokens to keep; 0 for all.
        top_p: Share of the weight to keep; 1 for all.
        min_p: Least weight to keep, that of the likeliest being 1.
        uniform: In [0, 1): where in the running sum of weights the token is.
    """

    inverse_temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


Draw = Callable[[NDArray[np.float32], Sequence[How]], list[int]]
"""What draws tokens; see :func:`draw`."""


def draw(logits: NDArray[np.float32], how: Sequence[How]) -> list[int]:
    """Draw one token for each row.

    What goes over the whole vocabulary is done for all rows at once, and what remains, mostly a
    handful of candidates, row by row.

    Args:
        logits: ``float32[rows, vocab]``; overwritten.
        how: One for each row.

    Returns:
        A token id per row; -1 where a row has no largest logit to go by.
    """
    best = logits.argmax(axis=-1)
    largest = logits.max(axis=-1)
    sound = np.isfinite(largest)
    tokens: list[int] = np.where(sound, best, -1).tolist()
    inverse = np.array([row.inverse_temperature for row in how], np.float32)
    warm = np.flatnonzero(sound & (inverse > 0.0))
    if not warm.size:
        return tokens
    weights = logits if warm.size == len(logits) else logits[warm]
    weights -= largest[warm, None]
    weights *= inverse[warm, None]
    np.exp(weights, out=weights)  # relative to the most likely token, whose weight is 1
    totals = weights.sum(axis=-1).tolist()
    for row, own, total in zip(warm.tolist(), weights, totals, strict=True):
        tokens[row] = _draw_row(own, total, how[row])
    return tokens


def _draw_row(weights: NDArray[np.float32], total: float, how: How) -> int:
    candidates = None
    if how.top_k > 0 or how.top_p < 1.0:
        candidates = _most_likely(weights, total, how.top_k, how.top_p)
        weights = weights[candidates]
    if how.min_p > 0.0:
        weights[weights < np.float32(how.min_p)] = 0.0
    at = _pick(weights, how.uniform)
    return at if candidates is None else int(candidates[at])


def _most_likely(
    weights: NDArray[np.float32], total: float, top_k: int, top_p: float
) -> NDArray[np.intp]:
    """Return the ids that top-k, then top-p leave, in ascending order; at least one.

    Exact, though the vocabulary is not sorted, and mostly only a head of it looked at. Of equal
    weights the first ids stay. That ids ascend makes a draw depend as little as possible on how
    close weights are ordered, which differs between machines and batches.

    Args:
        weights: ``float32[vocab]``, the largest 1.
        total: Their sum.
        top_k: How many to keep; 0 for all.
        top_p: Share of the weight to keep.
    """
    count = top_k if 0 < top_k < weights.size else weights.size
    mass = top_p * total if top_k == 0 else math.inf
    ids = None
    if min(count, mass) < _FLAT:
        for threshold in _HEADS:
            ids = (weights >= threshold).nonzero()[0]
            if ids.size > _FEW:
                break
            few = _among_few(weights[ids], count, mass, top_p)
            if few is not None:
                return ids[few]
    if ids is None or (ids.size < count and weights[ids].sum(dtype=np.float64) < mass):
        ids = np.arange(weights.size)
    return ids[_among_many(weights[ids], count, mass, top_p)]


def _among_few(
    values: NDArray[np.float32], count: int, mass: float, top_p: float
) -> NDArray[np.intp] | None:
    """Return where the most likely are, in ascending order; ``None`` if there must be others."""
    order = np.argsort(-values, kind="stable")[:count]
    so_far = values[order].cumsum(dtype=np.float64)
    if values.size < count and (values.size == 0 or so_far[-1] < mass):
        return None
    if top_p < 1.0:
        reached = mass if math.isfinite(mass) else top_p * so_far[-1]
        order = order[: int(np.searchsorted(so_far, reached)) + 1]
    order.sort()
    return order


def _among_many(
    values: NDArray[np.float32], count: int, mass: float, top_p: float
) -> NDArray[np.intp]:
    """Return where the most likely are, in ascending order."""
    kept = np.arange(values.size)
    if values.size > count:
        least = np.partition(values, -count)[-count]
        kept = np.flatnonzero(_largest(values, least, count - int((values > least).sum())))
        values = values[kept]
    if top_p < 1.0:
        reached = mass if math.isfinite(mass) else top_p * float(values.sum(dtype=np.float64))
        kept = kept[_largest(values, *_nucleus(values, reached))]
    return kept


def _largest(values: NDArray[np.float32], least: np.float32, ties: int) -> NDArray[np.bool_]:
    """Return which values are above ``least``, or among its first ``ties`` equals."""
    keep = values > least
    keep[np.flatnonzero(values == least)[:ties]] = True
    return keep


def _nucleus(values: NDArray[np.float32], mass: float) -> tuple[np.float32, int]:
    """Return the least of the largest values that together reach ``mass``, and how many equal it.

    Positive floats are ordered as their bits are. Histograms of ever lower bits, each within the
    bucket of the one before where the sum passes ``mass``, find the value.
    """
    bits, least, above = values.view(np.uint32), 0, 0.0
    for shift in (20, 10, 0):
        buckets = bits >> np.uint32(shift) & np.uint32(0x3FF)
        sums = np.bincount(buckets, values, minlength=1)[::-1]
        so_far = above + sums.cumsum()
        filled = np.flatnonzero(sums)
        # Rounding may leave the whole sum just below the mass: the last bucket has it then.
        last = int(filled[-1]) if filled.size else 0
        at = min(int(np.searchsorted(so_far, mass)), last)
        bucket = sums.size - 1 - at
        above = float(so_far[at] - sums[at])
        least = least << 10 | bucket
        inside = buckets == bucket
        bits, values = bits[inside], values[inside]
    value = np.uint32(least).view(np.float32)
    ties = math.ceil((mass - above) / value) if value > 0 else values.size
    return value, max(1, ties)


def _pick(weights: NDArray[np.float32], uniform: float) -> int:
    """Return the first index at which the running sum exceeds the drawn fraction of the whole.

    Of many weights, stretches are summed first, and only the one that counts weight by weight.
    """
    start, drawn = 0, 0.0
    if weights.size > _FEW:
        starts = np.arange(0, weights.size, _STRETCH)
        before = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
        drawn = uniform * before[-1]
        stretch = min(int(np.searchsorted(before, drawn, side="right")), starts.size - 1)
        start = int(starts[stretch])
        drawn -= before[stretch - 1] if stretch > 0 else 0.0
        weights = weights[start : start + _STRETCH]
    within = weights.cumsum(dtype=np.float64)
    if start == 0 and drawn == 0.0:
        drawn = uniform * within[-1]
    at = int(np.searchsorted(within, drawn, side="right"))
    if at == within.size:
        # Rounding put the draw at the very end: the last weight that counts has it.
        at = int(np.flatnonzero(within == within[-1])[0])
    return start + at
