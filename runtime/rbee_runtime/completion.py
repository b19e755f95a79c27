"""A whole completion, for callers who do not want it in pieces."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rbee_runtime.errors import EngineClosed, QueueFull, RuntimeFault
from rbee_runtime.events import Event, Failed, Finished, Piece, StopReason
from rbee_runtime.logprobs import TokenLogprobs
from rbee_runtime.request import Request
from rbee_runtime.streams import Submitter

Advance = Callable[[], None]
"""Called whenever a completion has ended."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered.

    Attributes:
        text: The answer.
        finished: Why it ended, its token counts and times.
        logprobs: What is known of each of its tokens, where that was asked for; see
            :class:`~rbee_runtime.events.Piece` for which are left out.
    """

    text: str
    finished: Finished
    logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def stop_reason(self) -> StopReason:
        """Why it ended."""
        return self.finished.reason


def complete_all(
    engine: Submitter, requests: Sequence[Request], advance: Advance
) -> list[Completion]:
    """Complete requests together, as many at a time as the engine takes.

    Raises:
        RuntimeFault: As the engine's ``submit``, or what the first of them failed with; the others
            are cancelled.
    """
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    texts = [""] * len(requests)
    logprobs: list[list[TokenLogprobs]] = [[] for _ in requests]
    ends: dict[int, Finished] = {}
    with ExitStack() as stack:
        waiting: Iterator[tuple[int, Request]] = iter(enumerate(requests))
        following = next(waiting, None)
        underway = 0
        while following is not None or underway:
            try:
                while following is not None:
                    number, request = following
                    engine.submit(request, _numbered(events, number))
                    stack.callback(engine.cancel, request.request_id)
                    underway += 1
                    following = next(waiting, None)
            except QueueFull:
                if not underway:
                    raise  # others have filled it
            number, event = events.get()
            if isinstance(event, Piece):
                texts[number] += event.text
                logprobs[number] += event.logprobs
            elif isinstance(event, Finished | Failed):
                ends[number] = whole(event)
                underway -= 1
                advance()
    return [
        Completion(text, ends[number], tuple(logprobs[number])) for number, text in enumerate(texts)
    ]


def _numbered(events: queue.SimpleQueue[tuple[int, Event]], number: int) -> Callable[[Event], None]:
    return lambda event: events.put((number, event))


def whole(end: Finished | Failed) -> Finished:
    """Return the end of a completion that only its engine may cut short.

    Raises:
        RuntimeFault: What it failed with.
        EngineClosed: The engine was closed before it was complete.
    """
    if isinstance(end, Failed):
        fault: RuntimeFault = end.error
        raise fault
    if end.reason is StopReason.CANCELLED:
        raise EngineClosed("the engine was closed before the completion's end")
    return end
