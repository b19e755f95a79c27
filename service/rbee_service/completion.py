"""Turns an engine's account of a completion into the events a client reads."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Event, Finished, Piece
from rbee_runtime.events import Failed as EngineFailed
from rbee_runtime.events import Started as EngineStarted
from rbee_service.events import (
    End,
    InferenceEvent,
    MeasuredOutput,
    Metrics,
    Output,
    StopReason,
    TokenOutput,
)
from rbee_service.faults import failure
from rbee_service.inference import Account
from rbee_service.narration import Narrator
from rbee_service.telling import accepted, broken, count_of

_METRICS_EVERY = 1.0


class CompletionTranslator:
    """One completion's state between engine and client; without I/O.

    Args:
        job_id: The client's name for the job.
        model: Reference of the model that answers.
        narrator: Voice of this request.
        vram_bytes: Says what the backend holds now, in bytes.
        clock: Monotonic seconds.

    Attributes:
        account: What the engine says of the whole, once it has.
        fault: Why the engine could not finish it, where that is so.
    """

    def __init__(
        self,
        *,
        job_id: str,
        model: str,
        narrator: Narrator,
        vram_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id = job_id
        self._model = model
        self._narrator = narrator
        self._vram_bytes = vram_bytes
        self._clock = clock
        self._accepted_at = clock()
        self._pieces = 0
        self._first_at = 0.0
        self._first_tokens = 0
        self._metrics_at = 0.0
        self.account: Account | None = None
        self.fault: RuntimeFault | None = None

    def open(self) -> list[InferenceEvent[TokenOutput]]:
        """Return the events that tell the client its job was accepted."""
        return accepted(self._narrator, self._job_id, self._model)

    def translate(self, event: Event) -> list[InferenceEvent[TokenOutput]]:
        """Return what the client is told of one engine event, in order."""
        match event:
            case EngineStarted():
                return self._started(event)
            case Piece():
                return self._piece(event)
            case Finished():
                return self._finished(event)
            case EngineFailed():
                self.fault = event.error
                return broken(self._narrator, failure(event.error))

    def _started(self, event: EngineStarted) -> list[InferenceEvent[TokenOutput]]:
        structlog.get_logger().info(
            "Sampling begins", seed=event.seed, prompt_tokens=event.prompt_tokens
        )
        prompt = count_of(event.prompt_tokens, "token")
        return [
            self._narrator.tell(
                "prefill",
                prompt,
                human=f"Reading a prompt of {prompt}",
                cute=f"Nibbling through {prompt} of prompt",
                story='"Hold on," said the worker, "I am still reading."',
            )
        ]

    def _piece(self, event: Piece) -> list[InferenceEvent[TokenOutput]]:
        now = self._clock()
        told: list[InferenceEvent[TokenOutput]] = []
        if self._pieces == 0:
            self._first_at = self._metrics_at = now
            self._first_tokens = event.tokens
            waited = round((now - self._accepted_at) * 1000)
            told.append(
                self._narrator.tell(
                    "decode",
                    "first token",
                    human=f"First text after {waited} ms",
                    cute=f"The first word hatched after {waited} ms!",
                    story='"Ah," said the worker, "it begins like this."',
                )
            )
        number, logprobs = self._pieces, event.logprobs
        told.append(
            Output(
                MeasuredOutput(event.text, number, logprobs)
                if logprobs
                else TokenOutput(event.text, number),
                event.tokens,
            )
        )
        self._pieces += 1
        if now - self._metrics_at >= _METRICS_EVERY:
            self._metrics_at = now
            rate = (event.tokens - self._first_tokens) / (now - self._first_at)
            told.append(self._metrics(rate))
        return told

    def _finished(self, event: Finished) -> list[InferenceEvent[TokenOutput]]:
        stop = StopReason(event.reason.value)
        self.account = Account(
            event.prompt_tokens,
            event.reused_tokens,
            event.completion_tokens,
            stop,
            event.drafted_tokens,
            event.accepted_tokens,
            stop_sequence=event.stop_sequence,
        )
        count, rate = event.completion_tokens, event.tokens_per_second
        tokens = count_of(count, "token")
        if stop is StopReason.CANCELLED:
            narration = self._narrator.tell(
                "cancel",
                tokens,
                human=f"Cancelled after {tokens}",
                cute=f"Tucked the pencil away after {tokens}",
                story='"Enough," said the client, and the worker put down the pen.',
            )
        else:
            narration = self._narrator.tell(
                "complete",
                tokens,
                human=f"Generated {tokens} at {rate:.1f} tokens/s, stopped by {event.reason}",
                cute=f"All done: {tokens}, buzzing along at {rate:.1f} a second!",
                story=f'"{tokens}," said the worker, "and not one too many."',
            )
        return [
            narration,
            self._metrics(rate),
            End(
                items_out=count,
                decode_time_ms=round(event.decode_seconds * 1000),
                stop_reason=stop,
                stop_sequence_matched=event.stop_sequence,
            ),
        ]

    def _metrics(self, rate: float) -> Metrics:
        return Metrics(tokens_per_sec=round(rate, 2), vram_bytes=self._vram_bytes())
