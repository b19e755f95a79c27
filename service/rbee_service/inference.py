"""One accepted inference from submission to its last event, whatever its output is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import structlog

from rbee_runtime.errors import RuntimeFault
from rbee_service.backend import InferenceBackend
from rbee_service.bridge import MOST_WAITING, EventBridge, Ferry
from rbee_service.events import End, Failed, InferenceEvent, StopReason, T
from rbee_service.faults import refusal

RequestT = TypeVar("RequestT")
EventT = TypeVar("EventT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)


class Translator(Protocol[EventT_contra, T]):
    """Knows a backend's events and what to tell the client of each."""

    def open(self) -> list[InferenceEvent[T]]:
        """Return the events that precede everything the backend says."""

    def translate(self, event: EventT_contra) -> list[InferenceEvent[T]]:
        """Return what the client is told of ``event``; the last one of all is End or Failed."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a backend says of an inference in the end.

    Attributes:
        tokens_in: Tokens it read.
        tokens_reused: Of these, how many had been computed before.
        tokens_out: Tokens it generated.
        stop: Why it ended.
        drafted: Guesses of its tokens that were run along.
        accepted: Of these, how many came true.
        reasoning: Of the tokens it generated, those of reasoning; ``None`` where none are told
            apart.
        stop_sequence: The stop string that ended it, where one did.
    """

    tokens_in: int
    tokens_reused: int
    tokens_out: int
    stop: StopReason
    drafted: int = 0
    accepted: int = 0
    reasoning: int | None = None
    stop_sequence: str | None = None


class AccountingTranslator(Translator[EventT_contra, T], Protocol):
    """Keeps what the backend says last, for those who answer with more than the events.

    Attributes:
        account: What it says of the whole, once it has.
        fault: Why it could not finish, where that is so.
    """

    @property
    def account(self) -> Account | None: ...  # noqa: D102
    @property
    def fault(self) -> RuntimeFault | None: ...  # noqa: D102


class Inference(Generic[EventT, T]):
    """Accepted by the backend, and cancelled there unless it is read to its end.

    Use as a context manager around everything that may stop the reading.
    """

    def __init__(
        self,
        request_id: str,
        cancel: Callable[[str], bool],
        bridge: EventBridge[EventT],
        translator: Translator[EventT, T],
    ) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._bridge = bridge
        self._translator = translator
        self._ended = False

    @classmethod
    async def submit(
        cls,
        backend: InferenceBackend[RequestT, EventT],
        request_id: str,
        request: RequestT,
        translator: Translator[EventT, T],
        *,
        ferry: Ferry,
        drop_reader: Callable[[], None],
        most_waiting: int = MOST_WAITING,
    ) -> Self:
        """Hand the request to the backend without holding up the event loop.

        Args:
            backend: Where to.
            request_id: The request's name there.
            request: What it takes.
            translator: Says what the reader is told.
            ferry: Carries its events.
            drop_reader: Called where the reader falls too far behind; must make it go away.
            most_waiting: Events that may wait for it.

        Raises:
            ApiError: The backend does not take it now.
            InvalidFields: The backend can never serve it.
        """

        def overrun() -> None:
            structlog.get_logger().warning("Dropped a reader that fell behind")
            drop_reader()

        bridge: EventBridge[EventT] = EventBridge(ferry, overrun, most_waiting)
        submission = asyncio.create_task(asyncio.to_thread(backend.submit, request, bridge.put))
        try:
            await asyncio.shield(submission)
        except asyncio.CancelledError:

            def drop(done: asyncio.Task[None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    backend.cancel(request_id)

            # The thread cannot be stopped: what it still submits has no reader any more.
            submission.add_done_callback(drop)
            raise
        except RuntimeFault as fault:
            raise refusal(fault) from fault
        return cls(request_id, backend.cancel, bridge, translator)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self._ended = True
            self._cancel(self.request_id)
            structlog.get_logger().info("Cancelled, as it was not read to its end")

    def cancel(self) -> None:
        """Ask the backend to end it; the events go on to the last one."""
        self._cancel(self.request_id)

    async def batches(self) -> AsyncGenerator[list[InferenceEvent[T]], None]:
        """Yield the events, those that are there at once together, to the last one."""
        yield self._translator.open()
        while not self._ended:
            told: list[InferenceEvent[T]] = []
            for event in await self._bridge.take():
                told += self._translator.translate(event)
                if told and isinstance(told[-1], End | Failed):
                    self._ended = True
                    break
            yield told


class LiveInferences:
    """The inferences that are under way, from their submission to the last byte sent."""

    def __init__(self) -> None:
        self._ferry = Ferry()
        self._cancels: dict[str, Callable[[str], bool]] = {}
        self._ending = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._cancels)

    @asynccontextmanager
    async def submitted(
        self,
        backend: InferenceBackend[RequestT, EventT],
        request_id: str,
        request: RequestT,
        translator: Translator[EventT, T],
        drop_reader: Callable[[], None],
        *,
        most_waiting: int = MOST_WAITING,
    ) -> AsyncIterator[Inference[EventT, T]]:
        """Submit a request and give its inference to the block, which reads it.

        An inference that the block does not read to its end is cancelled. For the arguments see
        :meth:`Inference.submit`.

        Raises:
            ApiError: The backend does not take the request now.
            InvalidFields: The backend can never serve it.
        """
        self._cancels[request_id] = backend.cancel
        self._idle.clear()
        try:
            inference = await Inference.submit(
                backend,
                request_id,
                request,
                translator,
                ferry=self._ferry,
                drop_reader=drop_reader,
                most_waiting=most_waiting,
            )
            with inference:
                if self._ending:
                    inference.cancel()
                yield inference
        finally:
            del self._cancels[request_id]
            if not self._cancels:
                self._idle.set()

    def cancel_all(self) -> None:
        """Ask the backend to end every one, and those that are still to be submitted too."""
        self._ending = True
        for request_id, cancel in self._cancels.items():
            cancel(request_id)

    async def finished(self, timeout: float) -> bool:
        """Wait until none is left; False if some still are after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
