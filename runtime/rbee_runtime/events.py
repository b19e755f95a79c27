"""What the engine says while it serves a request.

A request's events come in this order: one :class:`Started`, any number of :class:`Piece`, then
exactly one of :class:`Finished` or :class:`Failed`. A request cancelled or failed while it still
waits skips ``Started``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime.errors import RuntimeFault
from rbee_runtime.logprobs import TokenLogprobs


class StopReason(StrEnum):
    """Why a completion ended."""

    MAX_TOKENS = "MAX_TOKENS"
    EOS = "EOS"
    STOP_SEQUENCE = "STOP_SEQUENCE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Started:
    """The request left the waiting line; its prefill begins.

    Attributes:
        prompt_tokens: Length of the encoded prompt.
        seed: The random seed in force, given or drawn.
        reused_tokens: Of the prompt, how many an earlier request that began alike had computed.
    """

    prompt_tokens: int
    seed: int
    reused_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain: whole characters, past any stop string that could still match.

    Attributes:
        text: The texts of a request concatenate to its decoded completion exactly. Empty only in a
            last piece, of tokens without text whose log probabilities were asked for.
        tokens: Completion tokens sampled so far, this piece's included.
        logprobs: Where they were asked for, the tokens whose text begins in this piece. A request's
            pieces tell of every token once, in their order, but for an end-of-text token and for
            those whose text a stop string took away altogether.
    """

    text: str
    tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The completion is over.

    Attributes:
        reason: Why it ended.
        stop_sequence: The stop string that matched, for ``STOP_SEQUENCE``.
        prompt_tokens: Length of the encoded prompt.
        reused_tokens: Of these, how many an earlier request that began alike had computed.
        completion_tokens: Tokens sampled, an end-of-text token not counted.
        prefill_seconds: From ``Started`` to the first sampled token.
        decode_seconds: From the first sampled token to the last.
        drafted_tokens: Guesses of the completion's tokens that were run along.
        accepted_tokens: Of these, how many came true.
    """

    reason: StopReason
    stop_sequence: str | None
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Decode rate: tokens after the first, over the time they took; 0.0 for fewer than two."""
        if self.completion_tokens < 2 or self.decode_seconds <= 0.0:
            return 0.0
        return (self.completion_tokens - 1) / self.decode_seconds


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended in an error; what it held has been freed.

    Attributes:
        error: ``OutOfMemory``, ``InferenceFailed``, ``DeadlineExceeded`` or ``EngineClosed``.
    """

    error: RuntimeFault


Event = Started | Piece | Finished | Failed
