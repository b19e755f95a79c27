"""From logits to token ids, every row of a step with its own parameters."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.request import SamplingParams

_STRETCH = 512
"""Weights summed up at a time when drawing from a whole vocabulary."""

_COLDEST = 1e-20
"""Temperature below which only exact ties with the largest logit are left, down to any."""

_LIGHTEST = 1e-30
"""Repetition penalty below which a logit is divided by no less: the quotient must be finite."""

_HEADS = (1e-2, 1e-3, 1e-5)
"""Weights, relative to the largest, above which to look for the head of a distribution."""

_FLAT = 200
"""Tokens, or weight in units of the largest, from which on there is no short head to look for."""


_FEW = 1024
"""Candidates that are sorted rather than told apart by histograms."""


class RowSampler:
    """What sampling remembers of one request: parameters, random stream, tokens seen.

    Attributes:
        params: How to draw.
        seed: The seed in force, given or drawn.
        counts_tokens: Whether it matters which tokens came before.
        drawn: Tokens drawn so far.
        last: The last of them; -1 before the first.
        allowed: ``bool[vocab]``, the tokens that may come next; ``None`` for all. Whoever knows a
            grammar sets it between two tokens.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self.allowed: NDArray[np.bool_] | None = None
        # Counter-based and keyed by the seed alone: a request draws the same numbers in any batch.
        self._random = np.random.Generator(np.random.Philox(key=self.seed))
        self._seen = _Seen(prompt if params.repetition_penalty != 1.0 else ())
        self.drawn, self.last = 0, -1
        self.counts_tokens = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        self._biased = np.fromiter(params.logit_bias, np.intp, len(params.logit_bias))
        self._bias = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))

    def adjust(self, logits: NDArray[np.float32]) -> None:
        """Apply penalties, bias and mask to ``float32[vocab]``, in place."""
        if self.counts_tokens and self._seen.tokens.size:
            seen, counts, params = self._seen.tokens, self._seen.counts, self.params
            values = logits[seen]
            if params.repetition_penalty != 1.0:
                penalty = np.float32(max(params.repetition_penalty, _LIGHTEST))
                values = np.where(values > 0, values / penalty, values * penalty)
            values -= np.float32(params.frequency_penalty) * counts
            values -= np.float32(params.presence_penalty) * (counts > 0)
            logits[seen] = values
        if self._biased.size:
            logits[self._biased] += self._bias
        if self.allowed is not None:
            np.copyto(logits, -np.inf, where=~self.allowed)

    def record(self, token: int) -> None:
        """Remember a token that was drawn."""
        self.drawn, self.last = self.drawn + 1, token
        if self.counts_tokens:
            self._seen.add(token)

    @property
    def is_plainly_greedy(self) -> bool:
        """Whether the largest logit decides, as it is."""
        plain = not self.counts_tokens and not self._biased.size and self.allowed is None
        return plain and self.params.temperature == 0.0

    def past_rows(self, vocab: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return how often each token was drawn, and which tokens count as seen, ``[vocab]``."""
        counts, seen = np.zeros(vocab, np.float32), np.zeros(vocab, np.bool_)
        counts[self._seen.tokens] = self._seen.counts
        seen[self._seen.tokens] = True
        return counts, seen

    def bias_row(self, vocab: int) -> NDArray[np.float32] | None:
        """Return what bias and mask add to logits, ``float32[vocab]``; ``None`` if nothing."""
        if not self._biased.size and self.allowed is None:
            return None
        row = np.zeros(vocab, np.float32)
        row[self._biased] = self._bias
        if self.allowed is not None:
            row[~self.allowed] = -np.inf
        return row

    def uniform(self) -> float:
        """Return the next number of the request's random stream, in [0, 1)."""
        return self._random.random()


class _Seen:
    """The tokens of a sequence, each once, and how often each was drawn."""

    def __init__(self, prompt: Sequence[int]) -> None:
        unique = list(dict.fromkeys(prompt))
        self._at = {token: i for i, token in enumerate(unique)}
        self._tokens = np.asarray(unique, np.intp)
        self._counts = np.zeros(len(unique), np.float32)

    @property
    def tokens(self) -> NDArray[np.intp]:
        """The tokens."""
        return self._tokens[: len(self._at)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each was drawn; 0 for those that were only in the prompt."""
        return self._counts[: len(self._at)]

    def add(self, token: int) -> None:
        """Count a token that was drawn."""
        at = self._at.setdefault(token, len(self._at))
        if at == self._tokens.size:
            spare = max(64, at)
            self._tokens = np.concatenate([self._tokens, np.zeros(spare, np.intp)])
            self._counts = np.concatenate([self._counts, np.zeros(spare, np.float32)])
        self._tokens[at] = token
        self._counts[at] += 1.0


def sample(logits: NDArray[np.float32], rows: Sequence[RowSampler]) -> list[int | None]:
    """Draw one token for each row.

    Args:
        logits: ``float32[rows, vocab]``; overwritten.
        rows: One per row.

    Returns:
        A token id per row, recorded in its :class:`RowSampler`; ``None`` where a row has no largest
        logit to go by: the model's arithmetic overflowed.
    """
    for row, scores in zip(rows, logits, strict=True):
        row.adjust(scores)
    best = logits.argmax(axis=-1)
    tops = logits.max(axis=-1)
    sound = np.isfinite(tops).tolist()
    tokens: list[int | None] = [
        token if is_sound else None for token, is_sound in zip(best.tolist(), sound, strict=True)
    ]
    warm = [i for i, row in enumerate(rows) if sound[i] and row.params.temperature > 0.0]
    if warm:
        scores, largest = (logits, tops) if len(warm) == len(rows) else (logits[warm], tops[warm])
        drawn = _draw(scores, largest, [rows[i] for i in warm])
        for i, draw in zip(warm, drawn, strict=True):
            tokens[i] = draw
    for row, token in zip(rows, tokens, strict=True):
        if token is not None:
            row.record(token)
    return tokens


def inverse_temperature(temperature: float) -> np.float32:
    """Return what a temperature above 0 multiplies logits by."""
    return np.float32(1.0 / max(temperature, _COLDEST))


def _draw(
    logits: NDArray[np.float32], largest: NDArray[np.float32], rows: Sequence[RowSampler]
) -> list[int]:
    """Draw for rows that are not greedy.

    What goes over the whole vocabulary is done for all rows at once, and what remains, mostly a
    handful of candidates, row by row. Where a nucleus is large, a token is first drawn from all:
    most likely it is in the nucleus, which is quicker to see of one than to find out of all, and
    if not, another is drawn from the nucleus, which leaves the distribution as it should be.

    Args:
        logits: ``float32[rows, vocab]``; overwritten.
        largest: ``float32[rows]``, the largest of each.
        rows: One per row.
    """
    logits -= largest[:, None]
    temperatures = [row.params.temperature for row in rows]
    if temperatures != [1.0] * len(rows):
        logits *= np.asarray([inverse_temperature(one) for one in temperatures])[:, None]
    weights = np.exp(logits, out=logits)  # relative to the most likely token, whose weight is 1
    totals = weights.sum(axis=-1).tolist()
    tokens = []
    for row, own, total in zip(rows, weights, totals, strict=True):
        params, candidates = row.params, None
        if params.top_k == 0 and params.min_p == 0.0 and _FLAT <= params.top_p * total < total:
            token = _pick(own, row.uniform())
            if _is_in_nucleus(own, token, params.top_p * total):
                tokens.append(token)
                continue
        if params.top_k > 0 or params.top_p < 1.0:
            candidates = _most_likely(own, total, params.top_k, params.top_p)
            own = own[candidates]  # noqa: PLW2901
        if params.min_p > 0.0:
            own[own < np.float32(params.min_p)] = 0.0
        at = _pick(own, row.uniform())
        tokens.append(at if candidates is None else int(candidates[at]))
    return tokens


def _is_in_nucleus(weights: NDArray[np.float32], token: int, mass: float) -> bool:
    """Return whether what is likelier than a token weighs less than ``mass``."""
    weight = weights[token]
    likelier = float(np.dot(weights, weights > weight))
    ties = np.count_nonzero(weights[:token] == weight)
    return bool(likelier + ties * float(weight) < mass)


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
