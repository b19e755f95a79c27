"""A request's events, for those who take them one after another."""

from __future__ import annotations

import queue
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Protocol

from rbee_runtime.events import Event, Failed, Finished, Piece, Started
from rbee_runtime.request import Request


class Submitter(Protocol):
    """What takes requests; see :class:`~rbee_runtime.engine.Engine`."""

    def submit(self, request: Request, sink: Callable[[Event], None]) -> None: ...  # noqa: D102
    def cancel(self, request_id: str) -> bool: ...  # noqa: D102


def stream(engine: Submitter, request: Request) -> Generator[Started | Piece | Finished]:
    """Yield a request's events; see :meth:`~rbee_runtime.engine.Engine.stream`."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(request, events.put)
    try:
        while True:
            event = events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Finished):
                return
    finally:
        engine.cancel(request.request_id)


async def astream(
    engine: Submitter, request: Request
) -> AsyncGenerator[Started | Piece | Finished]:
    """Yield a request's events; see :meth:`~rbee_runtime.engine.Engine.astream`."""
    import asyncio  # which no start is to wait for

    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def pass_on(event: Event) -> None:
        try:
            loop.call_soon_threadsafe(events.put_nowait, event)
        except RuntimeError:  # the event loop has been closed, and nobody waits any more
            engine.cancel(request.request_id)

    submission = asyncio.create_task(asyncio.to_thread(engine.submit, request, pass_on))
    try:
        await asyncio.shield(submission)
        while True:
            event = await events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Finished):
                return
    finally:
        if submission.done():
            engine.cancel(request.request_id)
        else:  # it cannot be called back before it is in the engine
            submission.add_done_callback(lambda _: engine.cancel(request.request_id))
