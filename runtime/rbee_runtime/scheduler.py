"""Who runs next. Pure: no I/O, no clock, no threads."""

from __future__ import annotations

from collections import deque

from rbee_runtime.errors import QueueFull
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.step import Step


class Scheduler:
    """Orders steps over cache slots, first come, first served.

    Attributes:
        slots: Sequences served at a time.
        max_queue: Sequences that may wait beyond those.
        chunk: Prompt tokens run in one step at most, which bounds activations and the time between
            two looks at cancellations.
    """

    def __init__(self, slots: int, max_queue: int, chunk: int) -> None:
        self.slots = slots
        self.max_queue = max_queue
        self.chunk = chunk
        self._free = list(reversed(range(slots)))
        self._waiting: deque[Sequence] = deque()
        self._running: deque[Sequence] = deque()

    @property
    def slots_available(self) -> int:
        """Slots nobody holds."""
        return len(self._free)

    @property
    def queued(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def live(self) -> list[Sequence]:
        """All sequences, running ones first."""
        return [*self._running, *self._waiting]

    def add(self, sequence: Sequence) -> None:
        """Let a sequence in.

        Raises:
            QueueFull: Every slot is taken and the line is at its limit.
        """
        if len(self._waiting) - len(self._free) >= self.max_queue:
            raise QueueFull(
                f"all {self.slots} slots are taken and {len(self._waiting)} requests wait already"
            )
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its slot."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence in self._running:
            self._running.remove(sequence)
            assert sequence.slot is not None
            self._free.append(sequence.slot)
            sequence.slot = None

    def next(self) -> tuple[Sequence, Step] | None:
        """Return whose turn it is and what to run, or ``None`` when there is nothing to do.

        Sequences that hold a slot take turns, a step each.
        """
        while self._free and self._waiting:
            sequence = self._waiting.popleft()
            sequence.begin(self._free.pop())
            self._running.append(sequence)
        if not self._running:
            return None
        sequence = self._running[0]
        self._running.rotate(-1)
        assert sequence.slot is not None
        assert sequence.phase in (Phase.PREFILL, Phase.DECODE)
        tokens = sequence.pending(self.chunk)
        return sequence, Step(sequence.slot, sequence.cached, tokens, sequence.length)
