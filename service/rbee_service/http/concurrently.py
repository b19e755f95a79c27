"""Reads several streams at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """Yield what streams yield as it comes, each with the number of its stream.

    Of each stream at most one is read that was not yielded. All are closed in the end.

    Raises:
        Exception: What one of them failed with.
    """
    if len(streams) == 1:  # as nearly always, and a task for each of its pieces costs time
        async with aclosing(streams[0]) as only:
            async for one in only:
                yield 0, one
        return
    reading: dict[asyncio.Task[list[T]], int] = {}
    try:
        for number, stream in enumerate(streams):
            reading[asyncio.create_task(_next(stream))] = number
        while reading:
            done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            # In the order of the streams, where several are there.
            for task in sorted(done, key=reading.__getitem__):
                number = reading.pop(task)
                for one in task.result():
                    yield number, one
                    reading[asyncio.create_task(_next(streams[number]))] = number
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[T, None]) -> list[T]:
    """Return what comes next; nothing at the end."""
    async for one in stream:
        return [one]
    return []
