"""Turns an embedder's account of a request into the events a client reads."""

from __future__ import annotations

from collections.abc import Callable

from rbee_runtime.embedding import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Failed as EngineFailed
from rbee_service.events import (
    EmbeddingOutput,
    End,
    InferenceEvent,
    Metrics,
    Output,
    StopReason,
)
from rbee_service.faults import failure
from rbee_service.inference import Account
from rbee_service.narration import Narrator
from rbee_service.telling import accepted, broken, count_of


class EmbeddingTranslator:
    """One request's state between embedder and client; without I/O.

    Args:
        job_id: The client's name for the job.
        model: Reference of the model that answers.
        narrator: Voice of this request.
        vram_bytes: Says what the backend holds now, in bytes.

    Attributes:
        account: What the embedder says of the whole, once it has.
        fault: Why the embedder could not finish it, where that is so.
    """

    def __init__(
        self, *, job_id: str, model: str, narrator: Narrator, vram_bytes: Callable[[], int]
    ) -> None:
        self._job_id = job_id
        self._model = model
        self._narrator = narrator
        self._vram_bytes = vram_bytes
        self._vectors = 0
        self.account: Account | None = None
        self.fault: RuntimeFault | None = None

    def open(self) -> list[InferenceEvent[EmbeddingOutput]]:
        """Return the events that tell the client its job was accepted."""
        return accepted(self._narrator, self._job_id, self._model)

    def translate(self, event: EmbeddingEvent) -> list[InferenceEvent[EmbeddingOutput]]:
        """Return what the client is told of one event, in order."""
        match event:
            case Embedded():
                self._vectors += 1
                numbers = tuple(event.vector.tolist())
                return [Output(EmbeddingOutput(numbers, len(numbers)))]
            case EmbeddingFinished():
                return self._finished(event)
            case EngineFailed():
                self.fault = event.error
                return broken(self._narrator, failure(event.error))

    def _finished(self, event: EmbeddingFinished) -> list[InferenceEvent[EmbeddingOutput]]:
        stop = StopReason(event.stop.value)
        self.account = Account(event.tokens, 0, 0, stop)
        rate = event.tokens / event.seconds if event.seconds > 0.0 else 0.0
        vectors = count_of(self._vectors, "vector")
        if stop is StopReason.CANCELLED:
            narration = self._narrator.tell(
                "cancel",
                vectors,
                human=f"Cancelled after {vectors}",
                cute=f"Packed up after {vectors}",
                story='"Enough," said the client, and the worker put down the compass.',
            )
        else:
            narration = self._narrator.tell(
                "complete",
                vectors,
                human=f"Embedded {count_of(event.tokens, 'token')} at {rate:.1f} tokens/s",
                cute=f"All done: {vectors}, each with a place of its own!",
                story=f'"{vectors}," said the worker, "now you know where it belongs."',
            )
        return [
            narration,
            Metrics(tokens_per_sec=round(rate, 2), vram_bytes=self._vram_bytes()),
            End(
                items_out=self._vectors,
                decode_time_ms=round(event.seconds * 1000),
                stop_reason=stop,
            ),
        ]
