"""Begins the inferences that the routes answer with, whatever kind of model does them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import structlog
from sanic import Request

from rbee_runtime.errors import RuntimeFault
from rbee_service.errors import ApiError, ErrorCode
from rbee_service.events import Output, StopReason, T
from rbee_service.faults import broken_off, cancelled, refusal
from rbee_service.health import WorkerState
from rbee_service.http.app import correlation_id
from rbee_service.inference import Account, AccountingTranslator, Inference, LiveInferences
from rbee_service.metered import MeteredBackend
from rbee_service.metrics import Metrics
from rbee_service.model_kind import ModelKind
from rbee_service.model_kinds import kind_of
from rbee_service.model_loader import ModelBackend
from rbee_service.narration import Narrator

EventT = TypeVar("EventT")


@dataclass(frozen=True, slots=True)
class Begun(Generic[EventT, T]):
    """An inference that the backend has accepted.

    Attributes:
        inference: Its events.
        translator: Knows the backend's account of it, in the end.
    """

    inference: Inference[EventT, T]
    translator: AccountingTranslator[EventT, T]

    @property
    def lacking(self) -> ApiError | None:
        """What is told instead of a whole answer, once its end has been read; ``None`` if it is."""
        fault = self.translator.fault
        if fault is not None:
            return broken_off(fault)
        return cancelled() if self.account.stop is StopReason.CANCELLED else None

    @property
    def account(self) -> Account:
        """The backend's account, once the end has been read of one that did not fail."""
        assert self.translator.account is not None, "an inference has an end"
        return self.translator.account

    async def outputs(self) -> AsyncGenerator[Output[T], None]:
        """Yield all there is.

        Raises:
            ApiError: It is not whole.
        """
        async with aclosing(self.inference.batches()) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, Output):
                        yield event
        lacking = self.lacking
        if lacking is not None:
            raise lacking


class Inferences:
    """What the routes share that a model answers.

    Of what kind the model is shows when it is loaded. The routes are there before, and those that
    only another kind answers say so.

    Args:
        state: Knows the backend.
        live: Told of every inference for as long as it is read.
    """

    def __init__(self, state: WorkerState[Any, Any], live: LiveInferences) -> None:
        self._state = state
        self._live = live
        self._loaded: ModelBackend[Any, Any] | None = None
        self._kind: ModelKind[Any, Any] | None = None

    def serve(self, backend: ModelBackend[Any, Any], model: str, metrics: Metrics) -> None:
        """Take a model into service.

        Args:
            backend: Runs it.
            model: Reference of it.
            metrics: Where its requests are counted.
        """
        self._loaded = backend
        self._kind = kind = kind_of(backend.manifest)
        self._state.serve(MeteredBackend(backend, kind.meter, metrics), model)

    @property
    def model(self) -> str:
        """Reference of the loaded model."""
        return self._state.model

    @property
    def loaded(self) -> ModelBackend[Any, Any]:
        """What runs the model, for what is no inference."""
        assert self._loaded is not None, "routes ask once there is a model"
        return self._loaded

    def kind(self) -> ModelKind[Any, Any]:
        """Return the kind of the model, when the worker takes work.

        Raises:
            ApiError: It is loading or stopping.
        """
        self._state.backend()
        assert self._kind is not None, "a backend is of a kind"
        return self._kind

    def check(self, kind: ModelKind[Any, Any] | None = None) -> None:
        """Let a request pass that comes when the worker takes work, and for a model of its kind.

        Args:
            kind: What the model must be; ``None`` for any.

        Raises:
            ApiError: The worker is loading or stopping, or its model is of another kind.
        """
        served = self.kind()
        if kind is not None and served is not kind:
            raise self._elsewhere(served)

    def asked_by(self, body: Literal["inference", "job"]) -> type[Any]:
        """Return what a model is asked with at a route that takes a prompt.

        Args:
            body: Which of its bodies.

        Raises:
            ApiError: The worker is loading or stopping, or its model takes none.
        """
        served = self.kind()
        found = served.inference if body == "inference" else served.job
        if found is None:
            raise self._elsewhere(served)
        return found

    def _elsewhere(self, served: ModelKind[Any, Any]) -> ApiError:
        message = f"{self.model} is {served.name}: ask {served.routes}"
        return ApiError(ErrorCode.INVALID_REQUEST, message)

    @asynccontextmanager
    async def begun(
        self,
        kind: ModelKind[EventT, T],
        request: Request,
        job_id: str,
        request_id: str,
        ask: Callable[[], Any],
    ) -> AsyncIterator[Begun[EventT, T]]:
        """Submit an inference and give it to the block, which reads it to its end or cancels it.

        Args:
            kind: Of the model.
            request: Asked for it.
            job_id: Its name towards the client.
            request_id: Its name in the backend.
            ask: Makes what the backend is asked for.

        Raises:
            ApiError: It is not taken now.
            InvalidFields: It can never be served.
        """
        backend = self._state.backend()
        structlog.contextvars.bind_contextvars(job_id=job_id)
        translator = kind.translate(
            job_id=job_id,
            model=self.model,
            narrator=Narrator(kind.actor, job_id=job_id, correlation_id=correlation_id(request)),
            vram_bytes=lambda: backend.memory().total,
        )
        try:
            asked = ask()
        except RuntimeFault as fault:
            raise refusal(fault) from fault
        transport = cast(asyncio.Transport, request.transport)
        # The loss of its connection cancels whoever answers the request, and so the inference.
        async with self._live.submitted(
            backend,
            request_id,
            asked,
            translator,
            transport.abort,
            most_waiting=kind.most_waiting,
        ) as inference:
            yield Begun(inference, translator)
