"""Carries events from a backend's thread into the event loop, in order, blocking neither."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

MOST_WAITING: Final = 1024
"""Events that may wait for their reader, unless it is said otherwise."""

EventT = TypeVar("EventT")


class Ferry:
    """Crosses into the event loop it is made in, once for all that waits to be carried.

    A step of a backend has an event for each of its requests: to wake the loop for every one of
    them costs the backend's thread more than all else that it does with it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._aboard: list[tuple[EventBridge[Any], Any]] = []

    def board(self, bridge: EventBridge[EventT], event: EventT) -> None:
        """Carry an event to its bridge; from any thread, never blocks, never raises."""
        with self._lock:
            self._aboard.append((bridge, event))
            leaves = len(self._aboard) == 1
        if leaves:
            # A loop that has closed has no reader left who could miss the event.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._land)

    def _land(self) -> None:
        with self._lock:
            landed, self._aboard = self._aboard, []
        for bridge, event in landed:
            bridge.append(event)


class EventBridge(Generic[EventT]):
    """A queue with one reader in the event loop, and a writer in any thread.

    Args:
        ferry: Carries its events.
        overrun: Called once, in the loop, when the reader has fallen behind by more than
            ``most_waiting`` events. What comes later is dropped.
        most_waiting: Events that may wait for the reader.
    """

    def __init__(
        self, ferry: Ferry, overrun: Callable[[], None], most_waiting: int = MOST_WAITING
    ) -> None:
        self._ferry = ferry
        self._overrun: Callable[[], None] | None = overrun
        self._most_waiting = most_waiting
        self._waiting: list[EventT] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, event: EventT) -> None:
        """Append an event; never blocks, never raises."""
        self._ferry.board(self, event)

    async def take(self) -> list[EventT]:
        """Return all waiting events as soon as there are any."""
        if not self._waiting:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        taken, self._waiting = self._waiting, []
        return taken

    def append(self, event: EventT) -> None:
        """Append an event, in the loop."""
        if self._overrun is None:
            return
        if len(self._waiting) >= self._most_waiting:
            overrun, self._overrun = self._overrun, None
            overrun()
            return
        self._waiting.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
