"""The events a client of an inference reads, generic over what a worker puts out.

An inference is :class:`Started`, any number of :class:`Narration`, :class:`Output` and
:class:`Metrics`, then exactly one of :class:`End` or :class:`Failed`. The order of the fields
is that of the keys on the wire; a field that is ``None`` is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from rbee_runtime.logprobs import TokenLogprobs

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """Text of a language model.

    Attributes:
        t: Whole characters, never empty.
        i: Number of this output event, from 0 without gaps.
    """

    t: str
    i: int


@dataclass(frozen=True, slots=True)
class MeasuredOutput(TokenOutput):
    """Text of a language model for a route that asked how likely its tokens were.

    Attributes:
        logprobs: The tokens whose text begins in it; see :class:`rbee_runtime.events.Piece`.
    """

    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The vector of an embedding model.

    Attributes:
        embedding: ``dim`` finite numbers.
        dim: Length of the vector.
    """

    embedding: tuple[float, ...]
    dim: int


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """The score of one document by a reranker.

    Attributes:
        index: Which document.
        score: How well it answers the query: the more, the better.
    """

    index: int
    score: float


class StopReason(StrEnum):
    """Why an inference ended, as clients know it."""

    MAX_TOKENS = "MAX_TOKENS"
    EOS = "EOS"
    STOP_SEQUENCE = "STOP_SEQUENCE"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"


class EventError(StrEnum):
    """Codes of the ``error`` event."""

    VRAM_OOM = "VRAM_OOM"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    INVALID_REQUEST = "INVALID_REQUEST"
    INFERENCE_FAILED = "INFERENCE_FAILED"


@dataclass(frozen=True, slots=True)
class Started:
    """The worker took the job.

    Attributes:
        job_id: The client's name for it.
        model: Reference of the model that answers.
        started_at: RFC 3339, UTC.
    """

    job_id: str
    model: str
    started_at: str


@dataclass(frozen=True, slots=True)
class Output(Generic[T]):
    """One piece of the result; its fields lie directly in the event.

    Attributes:
        output: It.
        items: How many items there are by now, as tokens; not told on the wire.
    """

    output: T
    items: int = 0


@dataclass(frozen=True, slots=True)
class Metrics:
    """How fast it goes.

    Attributes:
        tokens_per_sec: Rate of this inference's decode so far.
        vram_bytes: Bytes the model, its cache and its workspace hold.
    """

    tokens_per_sec: float
    vram_bytes: int


@dataclass(frozen=True, slots=True)
class Narration:
    """What the worker is doing, told to people; never the prompt or the text.

    Attributes:
        actor: Who tells it.
        action: One word for what happened.
        target: What it happened to.
        human: Plain words.
        cute: The same, lightly.
        story: The same, as dialogue.
        correlation_id: Ties it to the request's other traces.
        job_id: The client's name for the job.
    """

    actor: str
    action: str
    target: str
    human: str
    cute: str | None = None
    story: str | None = None
    correlation_id: str | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The inference is over.

    Attributes:
        items_out: Tokens generated, or items of another kind of output.
        decode_time_ms: Milliseconds from the first token to the last.
        stop_reason: Why it ended.
        stop_sequence_matched: The stop string, for ``STOP_SEQUENCE``.
    """

    items_out: int
    decode_time_ms: int
    stop_reason: StopReason
    stop_sequence_matched: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The inference ended in an error.

    Attributes:
        code: What kind.
        message: One sentence for a person.
    """

    code: EventError
    message: str


InferenceEvent: TypeAlias = Started | Output[T] | Metrics | Narration | End | Failed
