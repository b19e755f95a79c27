"""Carries events from a backend's thread into the event loop, in order, blocking neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

MOST_WAITING: Final = 1024
"""Events that may wait for their reader."""

EventT = TypeVar("EventT")


class EventBridge(Generic[EventT]):
    """A queue with one reader in the loop it is made in, and a writer in any thread.

    Args:
        overrun: Called once, in the loop, when the reader has fallen behind by more than
            :data:`MOST_WAITING` events. What comes later is dropped.
    """

    def __init__(self, overrun: Callable[[], None]) -> None:
        self._overrun: Callable[[], None] | None = overrun
        self._loop = asyncio.get_running_loop()
        self._waiting: list[EventT] = []
        self._arrived = asyncio.Event()

    def put(self, event: EventT) -> None:
        """Append an event; never blocks, never raises."""
        # A loop that has closed has no reader left who could miss the event.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._append, event)

    async def take(self, quiet: float) -> list[EventT]:
        """Return all waiting events as soon as there are any; none after ``quiet`` seconds."""
        try:
            async with asyncio.timeout(quiet):
                await self._arrived.wait()
        except TimeoutError:
            return []
        self._arrived.clear()
        taken, self._waiting = self._waiting, []
        return taken

    def _append(self, event: EventT) -> None:
        if self._overrun is None:
            return
        if len(self._waiting) >= MOST_WAITING:
            overrun, self._overrun = self._overrun, None
            overrun()
            return
        self._waiting.append(event)
        self._arrived.set()
