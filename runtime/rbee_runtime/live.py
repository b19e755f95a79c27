"""A request inside the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from rbee_runtime.events import Event, Finished, Started
from rbee_runtime.sequence import Sequence

Sink = Callable[[Event], None]
"""Takes a request's events, on the engine's thread: it must return at once."""


@dataclass(slots=True, eq=False)
class Live:
    """A sequence, where its events go, and its times.

    Attributes:
        sequence: The sequence.
        sink: Where its events go.
        deaf: The sink failed: nobody is listening any more.
    """

    sequence: Sequence
    sink: Sink
    deaf: bool = False
    _started: float = 0.0
    _first_token: float = 0.0

    @property
    def request_id(self) -> str:
        """Of its request."""
        return self.sequence.request.request_id

    def start(self) -> None:
        """Say that its prefill begins, unless that was said."""
        if self._started == 0.0:
            self._started = time.monotonic()
            sequence = self.sequence
            self.tell(Started(len(sequence.prompt), sequence.sampler.seed, sequence.reused))

    def count_token(self) -> None:
        """Note the time of its first token."""
        if self._first_token == 0.0:
            self._first_token = time.monotonic()

    def tell(self, event: Event) -> None:
        """Pass an event on. A sink that fails harms nobody but its own request."""
        if self.deaf:
            return
        try:
            self.sink(event)
        except Exception:
            self.deaf = True
            logging.getLogger(__name__).exception("The sink of %s failed", self.request_id)

    def finished(self) -> Finished:
        """Return the event that tells of its end, which has come."""
        sequence, now = self.sequence, time.monotonic()
        assert sequence.stop_reason is not None
        started = self._started or now
        first_token = self._first_token or now
        return Finished(
            reason=sequence.stop_reason,
            stop_sequence=sequence.stop_sequence,
            prompt_tokens=len(sequence.prompt),
            reused_tokens=sequence.reused,
            completion_tokens=len(sequence.tokens),
            prefill_seconds=first_token - started,
            decode_seconds=now - first_token,
        )
