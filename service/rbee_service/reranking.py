"""Turns a reranker's account of a request into the events that its route reads."""

from __future__ import annotations

from collections.abc import Callable

from rbee_runtime.embedding import EmbeddingFinished
from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Failed as EngineFailed
from rbee_runtime.reranking.events import RerankEvent, Scored
from rbee_service.events import End, InferenceEvent, Output, ScoreOutput, StopReason
from rbee_service.faults import failure
from rbee_service.inference import Account
from rbee_service.narration import Narrator
from rbee_service.telling import accepted, broken, count_of


class RerankTranslator:
    """One request's state between reranker and client; without I/O.

    Args:
        job_id: The client's name for the job.
        model: Reference of the model that answers.
        narrator: Voice of this request.
        vram_bytes: Not asked: nobody is told.

    Attributes:
        account: What the reranker says of the whole, once it has.
        fault: Why the reranker could not finish it, where that is so.
    """

    def __init__(
        self, *, job_id: str, model: str, narrator: Narrator, vram_bytes: Callable[[], int]
    ) -> None:
        del vram_bytes
        self._job_id = job_id
        self._model = model
        self._narrator = narrator
        self._scores = 0
        self.account: Account | None = None
        self.fault: RuntimeFault | None = None

    def open(self) -> list[InferenceEvent[ScoreOutput]]:
        """Return the events that tell the client its job was accepted."""
        return accepted(self._narrator, self._job_id, self._model)

    def translate(self, event: RerankEvent) -> list[InferenceEvent[ScoreOutput]]:
        """Return what the client is told of one event, in order."""
        match event:
            case Scored():
                self._scores += 1
                return [Output(ScoreOutput(event.index, event.score))]
            case EmbeddingFinished():
                return self._finished(event)
            case EngineFailed():
                self.fault = event.error
                return broken(self._narrator, failure(event.error))

    def _finished(self, event: EmbeddingFinished) -> list[InferenceEvent[ScoreOutput]]:
        stop = StopReason(event.stop.value)
        self.account = Account(event.tokens, 0, 0, stop)
        documents = count_of(self._scores, "document")
        if stop is StopReason.CANCELLED:
            narration = self._narrator.tell(
                "cancel",
                documents,
                human=f"Cancelled after {documents}",
                cute=f"Put the scales away after {documents}",
                story='"Enough," said the client, and the worker put down the scales.',
            )
        else:
            rate = event.tokens / event.seconds if event.seconds > 0.0 else 0.0
            narration = self._narrator.tell(
                "complete",
                documents,
                human=f"Scored {documents} of {count_of(event.tokens, 'token')} "
                f"at {rate:.1f} tokens/s",
                cute=f"All weighed: {documents}, each in its place!",
                story=f'"{documents}," said the worker, "and this one answers best."',
            )
        end = End(
            items_out=self._scores,
            decode_time_ms=round(event.seconds * 1000),
            stop_reason=stop,
        )
        return [narration, end]
