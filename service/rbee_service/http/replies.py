"""Whole and streamed answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar

import structlog
from sanic import HTTPResponse, Request

from rbee_service.events import End, EventError, Failed, T
from rbee_service.inference import Inference
from rbee_service.sse import DONE, KEEP_ALIVE, SseDialect, encode_event

EventT = TypeVar("EventT")


def json_reply(
    body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> HTTPResponse:
    """Return ``body`` as compact JSON in UTF-8."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return HTTPResponse(
        text.encode("utf-8", "replace"),
        status=status,
        headers=dict(headers or {}),
        content_type="application/json",
    )


async def stream_reply(request: Request, chunks: AsyncGenerator[bytes, None]) -> None:
    """Answer with a stream of server-sent events, each chunk written as soon as it is there.

    A client that goes away cancels the caller, and with it the iteration of ``chunks``.
    """
    response = await request.respond(
        content_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )
    async with aclosing(chunks) as writing:
        async for chunk in writing:
            await response.send(chunk)
    await response.eof()


def done(_: End | Failed) -> bytes:
    """Return what follows the last event of an inference, however it ended."""
    return DONE


async def inference_chunks(
    inference: Inference[EventT, T],
    dialect: SseDialect,
    last: Callable[[End | Failed], bytes] = done,
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of an inference's events.

    Args:
        inference: Accepted, and not read yet.
        dialect: Vocabulary of the events.
        last: Says what follows the last event.
    """
    try:
        async with aclosing(inference.batches()) as batches:
            async for batch in batches:
                chunk = b"".join(encode_event(event, dialect) for event in batch)
                if batch and isinstance(batch[-1], End | Failed):
                    chunk += last(batch[-1])
                yield chunk or KEEP_ALIVE
    except Exception:
        # A client must read an end even where the fault is ours.
        structlog.get_logger().exception("An event could not be told")
        failed = Failed(EventError.INFERENCE_FAILED, "internal error")
        yield encode_event(failed, dialect) + last(failed)
