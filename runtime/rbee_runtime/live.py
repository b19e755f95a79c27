"""A completion inside the engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from rbee_runtime.events import Event, Finished, Piece, Started
from rbee_runtime.sequence import Sequence
from rbee_runtime.served import Served

Sink = Callable[[Event], None]
"""Takes a request's events, on the engine's thread: it must return at once."""


class Live(Served[Event]):
    """A sequence, where its events go, and its times.

    Attributes:
        sequence: The sequence.
    """

    def __init__(self, sequence: Sequence, sink: Sink) -> None:
        request = sequence.request
        super().__init__(request.request_id, request.deadline, sink)
        self.sequence = sequence
        self._started = 0.0
        self._first_token = 0.0

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

    def tell_text(self, text: str) -> None:
        """Tell of text that became certain, and of the tokens that go with it, if there is any."""
        logprobs = self.sequence.take_logprobs(text)
        if text or logprobs:
            self.tell(Piece(text, len(self.sequence.tokens), logprobs))

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
            drafted_tokens=sequence.drafted,
            accepted_tokens=sequence.accepted,
        )
