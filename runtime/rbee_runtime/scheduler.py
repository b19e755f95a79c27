"""What the next step runs, and in which slots. Pure: no I/O, no clock, no threads."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rbee_runtime.errors import QueueFull
from rbee_runtime.prefix import Prefix, PrefixIndex
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.step import PREFILL_CHUNK, Row, Step
from rbee_runtime.transfer import BLOCK, Load, LoadState, Move, Store, StoreState, Swap, Transfer

_LEAST_KEPT = 4 * BLOCK
"""Positions of which states are kept: to stop for fewer takes longer than it spares another."""


@dataclass(frozen=True, slots=True)
class Work:
    """One turn of the engine.

    Attributes:
        transfers: Copies to make first, in order.
        step: What to run then.
        sequences: Whose rows they are.
    """

    transfers: tuple[Transfer, ...]
    step: Step
    sequences: tuple[Sequence, ...]


class _Place:
    """What the scheduler remembers of a sequence that holds a slot.

    Attributes:
        sequence: The sequence.
        overtaken: Prompt tokens of others that ran while it waited with its own.
        prefix: The longest beginning of it that is kept in blocks.
        kept: Positions of that; -1 once nothing more of it can be kept.
        stops: Positions, whole blocks, at which the states of its prompt are to be kept; ascending.
    """

    def __init__(self, sequence: Sequence, prefix: Prefix) -> None:
        self.sequence = sequence
        self.overtaken = 0
        self.prefix = prefix
        self.kept = 0
        self.stops: list[int] = []

    @property
    def turn(self) -> int:
        """How long it has yet to wait: the shortest rest first, unless overtaken for long."""
        return len(self.sequence.prompt) - self.sequence.cached - self.overtaken


class Scheduler:
    """Orders steps over cache slots.

    Sequences that decode run together, a token each, and for that hold the slots from 0 on without
    a gap. Between two of their steps at most one chunk of one prompt runs. Among prompts, the one
    with the least left goes first, and every token that runs before another prompt's brings that
    one nearer, so that none waits for ever; of equals, the first come.

    Attributes:
        slots: Sequences served at a time.
        max_queue: Sequences that may wait beyond those.
        chunk: Prompt tokens run at most between two steps of those that decode.
        long_from: Length beyond which a sequence turns by the model's second set of rotary
            frequencies, where it has one.
    """

    def __init__(
        self,
        slots: int,
        max_queue: int,
        chunk: int,
        prefixes: PrefixIndex,
        long_from: int | None = None,
    ) -> None:
        self.slots = slots
        self.max_queue = max_queue
        self.chunk = chunk
        self.long_from = long_from
        self._prefixes = prefixes
        self._waiting: deque[Sequence] = deque()
        self._places: list[_Place | None] = [None] * slots
        self._prefilling: list[_Place] = []
        self._decoding: list[_Place] = []
        self._transfers: list[Transfer] = []
        self._prompts_turn = True

    @property
    def decoding(self) -> int:
        """Sequences that decode."""
        return len(self._decoding)

    @property
    def prompts(self) -> int:
        """Sequences that wait for their first token and hold a slot, or will at the next turn."""
        return len(self._prefilling) + min(len(self._waiting), self.slots_available)

    @property
    def slots_available(self) -> int:
        """Slots nobody holds."""
        return self._places.count(None)

    @property
    def queued(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def live(self) -> list[Sequence]:
        """All sequences, running ones first."""
        running = [*self._decoding, *self._prefilling]
        return [*(place.sequence for place in running), *self._waiting]

    def add(self, sequence: Sequence) -> None:
        """Let a sequence in.

        Raises:
            QueueFull: Every slot is taken and the line is at its limit.
        """
        # Those that wait only until the next step have their slot for certain.
        in_line = len(self._waiting) - self.slots_available
        if in_line >= self.max_queue:
            raise QueueFull(
                f"no slot is free (there are {self.slots}), and as many requests wait as may "
                f"({in_line})"
            )
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its slot."""
        if sequence.slot is None:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            return
        place = self._places[sequence.slot]
        assert place is not None
        self._places[sequence.slot] = None
        if place in self._prefilling:
            self._prefilling.remove(place)
        else:
            last = self._decoding.pop()
            if last is not place:
                self._decoding[sequence.slot] = last
                self._put(last, sequence.slot)
        sequence.slot = None

    def next(self, chunk: int | None = None) -> Work | None:
        """Return what to do next, or ``None`` when there is nothing to do.

        Every sequence of the last work has been advanced or removed meanwhile.

        Args:
            chunk: Prompt tokens to run while others decode, if fewer than :attr:`chunk`.
        """
        for place in [p for p in self._prefilling if p.sequence.phase is Phase.DECODE]:
            self._prefilling.remove(place)
            self._put(place, len(self._decoding))
            self._decoding.append(place)
        self._admit()
        if self._prefilling and (self._prompts_turn or not self._decoding):
            self._prompts_turn = False
            spare = self.chunk if chunk is None else min(chunk, self.chunk)
            return self._prefill(min(self._prefilling, key=lambda place: place.turn), spare)
        if not self._decoding:
            return None
        self._prompts_turn = True
        sequences = tuple(place.sequence for place in self._decoding)
        rows = tuple(Row(s.cached, s.pending(1), s.length) for s in sequences)
        return Work(self._take_transfers(), Step(0, rows), sequences)

    def keep(self, sequence: Sequence) -> list[Store | StoreState]:
        """Return what to store of a sequence, so that others can begin where it has come to."""
        if sequence.slot is None:
            return []
        place = self._places[sequence.slot]
        assert place is not None
        stores: list[Store | StoreState] = []
        come_to = sequence.cached
        if self._prefixes.has_states:
            # Of a completion there are no snapshots.
            come_to = min(come_to, len(sequence.prompt))
        while 0 <= place.kept <= come_to - BLOCK:
            tokens = sequence.ids(place.kept, place.kept + BLOCK)
            longer = self._prefixes.extend(place.prefix, tokens)
            if longer is None:
                place.kept = -1
                break
            place.prefix, is_new = longer
            if is_new:
                stores.append(Store(sequence.slot, place.kept, place.prefix.block))
            place.kept += BLOCK
        if place.stops and sequence.cached in place.stops and place.kept == sequence.cached:
            snapshot = self._prefixes.take_snapshot(place.prefix)
            if snapshot is not None:
                stores.append(StoreState(sequence.slot, snapshot))
        return stores

    def _admit(self) -> None:
        while self._waiting and None in self._places:
            sequence = self._waiting.popleft()
            slot = self._places.index(None)
            sequence.begin(slot)
            place = _Place(sequence, self._prefixes.empty(long=self._is_long(sequence)))
            self._places[slot] = place
            self._prefilling.append(place)

    def _prefill(self, place: _Place, spare: int) -> Work:
        sequence = place.sequence
        assert sequence.slot is not None
        if sequence.cached == 0:
            self._reuse(place)
        most = spare if self._decoding else max(self.chunk, PREFILL_CHUNK)
        ahead = [stop - sequence.cached for stop in place.stops if stop > sequence.cached]
        tokens = sequence.pending(min([most, *ahead]))
        for other in self._prefilling:
            if other is not place:
                other.overtaken += len(tokens)
        step = Step.of(sequence.slot, sequence.cached, tokens, sequence.length)
        return Work(self._take_transfers(), step, (sequence,))

    def _reuse(self, place: _Place) -> None:
        """Start from the longest beginning that is kept, but leave a token to run."""
        sequence = place.sequence
        assert sequence.slot is not None
        known = self._prefixes.match(sequence.prompt[:-1], long=self._is_long(sequence))
        if self._prefixes.has_states:
            # Others may begin as two have begun, or go on from the prompt's end.
            ends = {len(known) * BLOCK, len(sequence.prompt) // BLOCK * BLOCK}
            if self._prefixes.snapshots:
                place.stops = sorted(end for end in ends if end >= _LEAST_KEPT)
            known = self._prefixes.resumable(known)
        if not known:
            return
        for number, prefix in enumerate(known):
            self._transfers.append(Load(prefix.block, sequence.slot, number * BLOCK))
        place.prefix, place.kept = known[-1], len(known) * BLOCK
        if self._prefixes.has_states:
            state = LoadState(known[-1].snapshot, sequence.slot, place.kept)
            self._transfers.append(state)
        sequence.reuse(place.kept)

    def _put(self, place: _Place, slot: int) -> None:
        """Bring a sequence to a slot, whoever holds that."""
        sequence, other = place.sequence, self._places[slot]
        source = sequence.slot
        assert source is not None
        if source == slot:
            self._places[slot] = place
            return
        if other is None or other.sequence.cached == 0:
            self._transfers.append(Move(source, slot, sequence.cached))
        else:
            positions = max(sequence.cached, other.sequence.cached)
            self._transfers.append(Swap(source, slot, positions))
        self._places[source], self._places[slot] = other, place
        sequence.slot = slot
        if other is not None:
            other.sequence.slot = source

    def _is_long(self, sequence: Sequence) -> bool:
        return self.long_from is not None and sequence.length > self.long_from

    def _take_transfers(self) -> tuple[Transfer, ...]:
        transfers, self._transfers = tuple(self._transfers), []
        return transfers
