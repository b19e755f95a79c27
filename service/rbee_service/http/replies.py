"""Whole and streamed answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Final, TypeAlias, TypeVar

import structlog
from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from rbee_service.compact_json import Parts, json_bytes
from rbee_service.events import End, EventError, Failed, T
from rbee_service.inference import Inference
from rbee_service.sse import DONE, KEEP_ALIVE, SseDialect, encode_event

EventT = TypeVar("EventT")

BLOCK: Final = 1 << 16
"""Bytes that are written at a time of much that is there at once."""

Chunk: TypeAlias = bytes | list[bytes | bytearray]
"""Some of a stream; what may be long comes in parts."""


def json_reply(
    body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> HTTPResponse:
    """Return ``body`` as compact JSON in UTF-8."""
    return HTTPResponse(
        json_bytes(body),
        status=status,
        headers=dict(headers or {}),
        content_type="application/json",
    )


async def parts_reply(request: Request, parts: Parts) -> HTTPResponse | None:
    """Answer with JSON that may be long: others are answered while it is written.

    Args:
        request: Asked for it.
        parts: Of the JSON.

    Returns:
        The answer, if it is short; a long one has been written.
    """
    parts = list(parts)
    length = sum(map(len, parts))
    if length <= BLOCK:
        return HTTPResponse(b"".join(parts), content_type="application/json")
    response = await request.respond(
        content_type="application/json", headers={"content-length": str(length)}
    )
    for block in _blocks(parts):
        await response.send(block)
        # To send waits for a client who is slow, but for nobody else.
        await asyncio.sleep(0)
    return None


def _blocks(parts: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """Yield parts put together or cut."""
    block = bytearray()
    for part in parts:
        for start in range(0, len(part), BLOCK):
            block += part[start : start + BLOCK]
            if len(block) >= BLOCK:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


async def stream_reply(
    request: Request, chunks: AsyncGenerator[Chunk, None], keep_alive: bytes = KEEP_ALIVE
) -> None:
    """Answer with a stream of server-sent events, each chunk written as soon as it is there.

    A chunk may be empty. A stream on which nothing was written for a while gets a comment, whatever
    went on meanwhile that its client is not told of. A client that goes away cancels the caller,
    and with it the iteration of ``chunks``.

    Args:
        request: Asked for it.
        chunks: What is written.
        keep_alive: What is written instead of a comment.
    """
    response = await request.respond(
        content_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )
    wire = _Wire(response, request.app.ctx.limits.silence_seconds, keep_alive)
    breaking_silence = asyncio.create_task(wire.break_silence())
    try:
        async with aclosing(chunks) as writing:
            async for chunk in writing:
                if chunk:
                    await wire.send(chunk)
    finally:
        breaking_silence.cancel()
    await response.eof()


class _Wire:
    """What a stream is written to, and when that was done last."""

    def __init__(
        self, response: BaseHTTPResponse, silence_seconds: float, keep_alive: bytes
    ) -> None:
        self._response = response
        self._silence = silence_seconds
        self._keep_alive = keep_alive
        self._now = asyncio.get_running_loop().time
        self._sent = self._now()
        # A writer may have to wait for the client, and the other one must not come between.
        self._turn = asyncio.Lock()

    async def send(self, chunk: Chunk) -> None:
        async with self._turn:
            if isinstance(chunk, bytes):
                await self._response.send(chunk)
            else:
                for block in _blocks(chunk):
                    await self._response.send(block)
                    await asyncio.sleep(0)
            self._sent = self._now()

    async def break_silence(self) -> None:
        """Send something whenever there has been silence for long enough; never ends."""
        while True:
            await asyncio.sleep(self._sent + self._silence - self._now())
            async with self._turn:
                if self._now() >= self._sent + self._silence:
                    await self._response.send(self._keep_alive)
                    self._sent = self._now()


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
                yield chunk
    except Exception:
        # A client must read an end even where the fault is ours.
        structlog.get_logger().exception("An event could not be told")
        failed = Failed(EventError.INFERENCE_FAILED, "internal error")
        yield encode_event(failed, dialect) + last(failed)
