"""Begins the completions that the routes of a language model answer with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import structlog
from sanic import Request

from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Event, StopReason
from rbee_runtime.request import Request as RuntimeRequest
from rbee_service.completion import ACTOR, CompletionTranslator
from rbee_service.errors import ApiError
from rbee_service.events import End, Output, TokenOutput
from rbee_service.faults import broken_off, cancelled, refusal
from rbee_service.health import WorkerState
from rbee_service.http.app import correlation_id
from rbee_service.inference import Inference, LiveInferences
from rbee_service.narration import Narrator


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion that the engine has accepted.

    Attributes:
        inference: Its events.
        translator: Knows the engine's account of it, in the end.
    """

    inference: Inference[Event, TokenOutput]
    translator: CompletionTranslator

    @property
    def lacking(self) -> ApiError | None:
        """What is told instead of a whole answer, once its end has been read; ``None`` if it is."""
        finished, fault = self.translator.finished, self.translator.fault
        if fault is not None:
            return broken_off(fault)
        if finished is not None and finished.reason is StopReason.CANCELLED:
            return cancelled()
        return None


class Completions:
    """What the routes of a language model share.

    Args:
        state: Knows the backend.
        live: Told of every completion for as long as it is read.
    """

    def __init__(self, state: WorkerState[RuntimeRequest, Event], live: LiveInferences) -> None:
        self._state = state
        self._live = live

    @property
    def model(self) -> str:
        """Reference of the loaded model."""
        return self._state.model

    def check(self) -> None:
        """Let a request pass that comes when the worker takes work.

        Raises:
            ApiError: It is loading or stopping.
        """
        self._state.backend()

    @asynccontextmanager
    async def begun(
        self, request: Request, job_id: str, request_id: str, ask: Callable[[], RuntimeRequest]
    ) -> AsyncIterator[Completion]:
        """Submit a completion and give it to the block, which reads it to its end or cancels it.

        Args:
            request: Asked for it.
            job_id: Its name towards the client.
            request_id: Its name in the engine.
            ask: Makes what the engine is asked for.

        Raises:
            ApiError: It is not taken now.
            InvalidFields: It can never be served.
        """
        backend = self._state.backend()
        structlog.contextvars.bind_contextvars(job_id=job_id)
        translator = CompletionTranslator(
            job_id=job_id,
            model=self._state.model,
            narrator=Narrator(ACTOR, job_id=job_id, correlation_id=correlation_id(request)),
            vram_bytes=lambda: backend.memory().total,
        )
        try:
            asked = ask()
        except RuntimeFault as fault:
            raise refusal(fault) from fault
        transport = cast(asyncio.Transport, request.transport)
        # The loss of its connection cancels whoever answers the request, and so the completion.
        async with self._live.submitted(
            backend, request_id, asked, translator, transport.abort
        ) as inference:
            yield Completion(inference, translator)


async def whole_text(completion: Completion) -> tuple[str, End]:
    """Return all the text of a completion, and how it ended.

    Raises:
        ApiError: It is not whole.
    """
    pieces: list[str] = []
    ended: End | None = None
    async for batch in completion.inference.batches():
        for event in batch:
            match event:
                case Output():
                    pieces.append(event.output.t)
                case End():
                    ended = event
    if completion.lacking is not None:
        raise completion.lacking
    assert ended is not None, "an inference has an end"
    return "".join(pieces), ended
