"""From logits to token ids, every row of a step with its own parameters."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.drawing import Draw, How, draw
from rbee_runtime.kernels import NoKernels
from rbee_runtime.kernels.drawing import native_draw
from rbee_runtime.kernels.log_softmax import native_log_softmax
from rbee_runtime.log_softmax import LogSoftmax, Measure, log_softmax
from rbee_runtime.logprobs import TokenLogprob, TokenLogprobs
from rbee_runtime.request import SamplingParams

_COLDEST = 1e-20
"""Temperature below which only exact ties with the largest logit are left, down to any."""

_LIGHTEST = 1e-30
"""Repetition penalty below which a logit is divided by no less: the quotient must be finite."""


class RowSampler:
    """What sampling remembers of one request: parameters, random stream, tokens seen.

    Attributes:
        params: How to draw.
        seed: The seed in force, given or drawn.
        counts_tokens: Whether it matters which tokens came before.
        drawn: Tokens drawn so far.
        last: The last of them; -1 before the first.
        asks_logprobs: Whether how likely its tokens are is to be known.
        logprobs: What is known of the last token, where that was asked for.
        allowed: ``bool[vocab]``, the tokens that may come next; ``None`` for all. Whoever knows a
            grammar sets it between two tokens.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self.allowed: NDArray[np.bool_] | None = None
        self._seen = _Seen(prompt if params.repetition_penalty != 1.0 else ())
        self.drawn, self.last = 0, -1
        self.asks_logprobs = params.logprobs is not None
        self.logprobs: TokenLogprobs | None = None
        self._measured: tuple[NDArray[np.float32], LogSoftmax] | None = None
        self.counts_tokens = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        self._biased = np.fromiter(params.logit_bias, np.intp, len(params.logit_bias))
        self._bias = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        self._always_adjusts = self.counts_tokens or self._biased.size > 0
        warm = params.temperature > 0.0
        inverse = float(inverse_temperature(params.temperature)) if warm else 0.0
        self._filters = (inverse, params.top_k, params.top_p, params.min_p)

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
        if self._measured is not None:
            # A row of logits is not kept while others run, nor after the last one.
            (logits, (whole, likeliest, values)), self._measured = self._measured, None
            top = tuple(map(TokenLogprob, likeliest, values))
            self.logprobs = TokenLogprobs(token, float(logits[token]) - whole, top)

    def measure(self, logits: NDArray[np.float32]) -> None:
        """Find out what is to be known of the token that is recorded next.

        Args:
            logits: ``float32[vocab]``, as the model left them, and still so when it is recorded.
        """
        top = min(self.params.logprobs or 0, logits.size)
        self._measured = logits, best_log_softmax()(logits, top)

    @property
    def adjusts(self) -> bool:
        """Whether :meth:`adjust` does anything to logits."""
        return self._always_adjusts or self.allowed is not None

    @property
    def is_plainly_greedy(self) -> bool:
        """Whether the largest logit decides, as it is."""
        return not self.adjusts and self.params.temperature == 0.0

    def how(self) -> How:
        """Return how to draw the next token; takes a number of the request's random stream."""
        inverse, top_k, top_p, min_p = self._filters
        return How(inverse, top_k, top_p, min_p, self.uniform() if inverse else 0.0)

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

    @cached_property
    def _random(self) -> np.random.Generator:
        # Counter-based and keyed by the seed alone: a request draws the same numbers in any batch.
        # Greedy requests need none, and the first to ask for one waits for the module.
        return np.random.Generator(np.random.Philox(key=self.seed))

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
        if row.asks_logprobs:
            # To draw the largest leaves logits as they are.
            row.measure(scores if row.is_plainly_greedy else scores.copy())
        if row.adjusts:
            row.adjust(scores)
    tokens: list[int | None] = []
    for row, token in zip(rows, best_draw()(logits, [row.how() for row in rows]), strict=True):
        if token < 0:
            tokens.append(None)
            continue
        row.record(token)
        tokens.append(token)
    return tokens


def inverse_temperature(temperature: float) -> np.float32:
    """Return what a temperature above 0 multiplies logits by."""
    return np.float32(1.0 / max(temperature, _COLDEST))


@cache
def best_draw() -> Draw:
    """Return what draws here: the native kernels do in a tenth of the time what NumPy does."""
    try:
        return native_draw()
    except NoKernels:
        return draw


@cache
def best_log_softmax() -> Measure:
    """Return what finds log probabilities here: the native kernels, where they can be used."""
    try:
        return native_log_softmax()
    except NoKernels:
        return log_softmax
