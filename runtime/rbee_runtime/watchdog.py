"""Notices a step that does not come back from the backend: the thread that runs it cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

DEFAULT_STEP_LIMIT = 60.0
"""Seconds for a step of no tokens, and for every 64 of its tokens once more: beyond what the
slowest machine takes that is of any use. A chunk of 256 has five minutes."""

_TOKENS_OF_ANOTHER = 64
_TICK_SECONDS = 1.0


class Watched(Protocol):
    """What takes the longer the more tokens it has."""

    @property
    def tokens(self) -> int: ...  # noqa: D102


class Watchdog:
    """Watches one step at a time, on a thread of its own.

    It counts its own ticks and not a clock's, so that the time for which a process is stopped, or
    a machine sleeps, is held against no step.

    Args:
        limit: Seconds; see :data:`DEFAULT_STEP_LIMIT`.
        alarm: Called at most once, on the watchdog's thread, with one line that says what hangs.
    """

    def __init__(self, limit: float, alarm: Callable[[str], object]) -> None:
        self._limit = limit
        self._alarm = alarm
        self._tick = min(_TICK_SECONDS, limit / 4)
        # The step in a list: whoever takes it out, its thread or the watchdog's, has it.
        self._step: list[Watched] = []
        self._raised = False
        self._off = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rbee-watchdog", daemon=True)
        self._thread.start()

    @property
    def raised(self) -> bool:
        """Whether the alarm has been raised."""
        return self._raised

    def begin(self, step: Watched) -> None:
        """Watch a step from now on."""
        self._step = [step]

    def end(self) -> bool:
        """Watch it no more; ``False`` if the alarm was raised meanwhile."""
        try:
            self._step.pop()
        except IndexError:
            return False
        return True

    def stop(self) -> None:
        """Watch nothing any more. Called by nobody that the alarm waits for."""
        self._off.set()
        self._thread.join()

    def _run(self) -> None:
        seen: list[Watched] = []
        ticks = 0
        while not self._off.wait(self._tick):
            held = self._step
            ticks = ticks + 1 if held is seen else 0
            seen = held
            tokens = sum(step.tokens for step in held)
            limit = self._limit * (1 + tokens / _TOKENS_OF_ANOTHER)
            if ticks * self._tick < limit:
                continue
            try:
                held.pop()
            except IndexError:
                continue  # there is none, or it has come back
            self._raised = True
            self._alarm(f"a step over {tokens} tokens has not come back within {limit:.3g} s")
            return
