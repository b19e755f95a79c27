"""A backend without a model, whose every token a test chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.sampling import RowSampler, sample
from rbee_runtime.step import Step
from rbee_runtime.transfer import BLOCK, Load, LoadState, Move, Store, StoreState, Swap, Transfer

Choose = Callable[[Sequence[int]], int]
"""Takes all ids of a slot so far and returns the one that is to follow."""


class StandInBackend:
    """Keeps the ids of each slot where a backend keeps its cache.

    Attributes:
        steps: What has been run, in order; the last one may still be running.
        before: Called with each step, on the engine's thread, before it counts as run.
    """

    name = "cpu"
    weight_bytes = cache_bytes = cache_used = 4096

    def __init__(
        self,
        choose: Choose,
        *,
        before: Callable[[Step], object] = lambda step: None,
        slots: int = 1,
        capacity: int = 1024,
        blocks: int = 0,
        snapshots: int | None = None,
        vocab: int = 384,
        most_drafted: int = 0,
    ) -> None:
        self.before = before
        self.slots = slots
        self.capacity = capacity
        self.blocks = blocks
        self.snapshots = snapshots
        self.most_drafted = most_drafted
        self.steps: list[Step] = []
        self._choose = choose
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._kept: dict[int, list[int]] = {}
        self._states: dict[int, list[int]] = {}
        self._logits = np.zeros((slots + most_drafted, vocab), np.float32)

    def run(self, step: Step) -> NDArray[np.float32]:
        self.steps.append(step)
        self.before(step)
        sure = [len(row.tokens) - row.guesses for row in step.rows]
        assert len(step.rows) == 1 or sure == [1] * len(step.rows)
        logits = self._logits[: len(step.rows) + step.guesses]
        logits[:] = 0.0
        guess = len(step.rows)
        for number, row in enumerate(step.rows):
            held = self._held[step.slot + number]
            assert row.past <= len(held), "the cache does not hold that much"
            assert row.tokens
            if self.snapshots is not None:
                assert row.past in (0, len(held)), "a state cannot be taken back"
            held[row.past :] = row.tokens
            seen = row.past + sure[number]
            logits[number, self._choose(held[:seen])] = 50.0
            for more in range(1, row.guesses + 1):
                logits[guess, self._choose(held[: seen + more])] = 50.0
                guess += 1
        return logits

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        logits = self.run(step)
        return sample(logits, samplers) if samplers else []

    def warm_up(self) -> None:
        pass

    def held(self) -> int:
        return self.cache_bytes

    def transfer(self, transfer: Transfer) -> None:
        held, kept = self._held, self._kept
        match transfer:
            case Move(source, target, positions):
                assert len(held[source]) >= positions
                held[target] = held[source][:positions]
            case Swap(one, other):
                held[one], held[other] = held[other], held[one]
            case Store(slot, position, block):
                assert len(held[slot]) >= position + BLOCK
                kept[block] = held[slot][position : position + BLOCK]
            case Load(block, slot, position):
                held[slot][position:] = kept[block]
            case StoreState(slot, snapshot):
                self._states[snapshot] = list(held[slot])
            case LoadState(snapshot, slot, position):
                assert held[slot] == self._states[snapshot]
                assert len(held[slot]) == position


def saying(completion: Sequence[int], prompt: Sequence[int]) -> Choose:
    """Answer ``prompt`` with ``completion``, again and again."""
    return lambda held: completion[(len(held) - len(prompt)) % len(completion)]


class Gate:
    """Stops the engine inside the steps that ``stops`` picks, until it is opened."""

    def __init__(self, stops: Callable[[Step], bool] = lambda step: True) -> None:
        self._stops = stops
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, step: Step) -> None:
        if self._stops(step):
            self._reached.set()
            assert self._open.wait(30), "nobody opened the gate"

    def reached(self) -> None:
        """Wait until the engine stands in front of it."""
        assert self._reached.wait(30), "the engine never came to the gate"

    def open(self) -> None:
        self._open.set()
