"""Taking the events of a request."""

from __future__ import annotations

import queue

from rbee_runtime.engine import Engine
from rbee_runtime.events import Event, Failed, Finished, Piece, Started
from rbee_runtime.request import Request


class Collector:
    """A sink that a test can wait on."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __call__(self, event: Event) -> None:
        self._queue.put(event)

    def next(self) -> Event:
        return self._queue.get(timeout=30)

    def all(self) -> list[Event]:
        """Wait for the end and return every event, whose order is checked."""
        events = [self.next()]
        while not isinstance(events[-1], Finished | Failed):
            events.append(self.next())
        assert self._queue.empty(), "something came after the end"
        head, *pieces = events[:-1] or [None]
        assert head is None or isinstance(head, Started)
        so_far = 0
        for piece in pieces:
            assert isinstance(piece, Piece)
            assert piece.text
            assert piece.tokens >= so_far
            so_far = piece.tokens
        return events

    def finished(self) -> tuple[str, Finished]:
        """Wait for a completion and return its text and its end."""
        events = self.all()
        end = events[-1]
        assert isinstance(end, Finished), end
        return text_of(events), end

    def failed(self) -> Failed:
        """Wait for a failure."""
        end = self.all()[-1]
        assert isinstance(end, Failed), end
        return end

    def left(self) -> int:
        """Return how many events came and were not taken."""
        return self._queue.qsize()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def submit(engine: Engine, request: Request) -> Collector:
    collector = Collector()
    engine.submit(request, collector)
    return collector
