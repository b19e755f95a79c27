"""A backend without a model, whose every token a test chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.step import Step

Choose = Callable[[Sequence[int]], int]
"""Takes all ids of a slot so far and returns the one that is to follow."""


class StandInBackend:
    """Keeps the ids of each slot where a backend keeps its cache.

    Attributes:
        steps: What has been run, in order; the last one may still be running.
        before: Called with each step, on the engine's thread, before it counts as run.
    """

    name = "cpu"
    cache_bytes = 4096

    def __init__(
        self,
        choose: Choose,
        *,
        before: Callable[[Step], object] = lambda step: None,
        slots: int = 1,
        capacity: int = 1024,
        vocab: int = 384,
    ) -> None:
        self.before = before
        self.slots = slots
        self.capacity = capacity
        self.steps: list[Step] = []
        self._choose = choose
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._logits = np.zeros((1, vocab), np.float32)

    def run(self, step: Step) -> NDArray[np.float32]:
        self.steps.append(step)
        self.before(step)
        held = self._held[step.slot]
        assert step.past in (0, len(held)), "the cache holds something else"
        assert step.tokens
        held[step.past :] = step.tokens
        self._logits[:] = 0.0
        self._logits[0, self._choose(held)] = 50.0
        return self._logits


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
