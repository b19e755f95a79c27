"""Engines opened side by side, and what their rounds have in common."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from rbee_bench.interleave import interleave
from rbee_bench.limits import Roof, Roofer
from rbee_bench.peers import PeerFault, PeerProcess, Spec, Timing
from rbee_bench.stats import spread
from rbee_bench.subject import Progress


class Rounds:
    """What can be said of one engine's rates, one a round."""

    __slots__ = ()

    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        """Tokens a second in the middle round."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """See :func:`~rbee_bench.stats.spread`."""
        return spread(self.rates)


class Turns:
    """Counts turns for a progress bar.

    Attributes:
        total: How many there will be.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self.total = total
        self._progress = progress
        self._done = 0

    def __call__(self, label: str) -> None:
        """Say that this engine had its turn."""
        self._done += 1
        self._progress(label, self._done, self.total)


def open_peers(
    stack: ExitStack,
    specs: Sequence[Spec],
    attempt: Callable[[PeerProcess], object],
    progress: Progress,
) -> tuple[dict[str, PeerProcess], dict[str, str]]:
    """Open every engine that can do what is to be measured.

    Args:
        stack: Closes them.
        specs: The engines.
        attempt: Does it once, as far as needed to see.
        progress: Called before each.

    Returns:
        Those that can, and why the others cannot, both by label.
    """
    peers: dict[str, PeerProcess] = {}
    skipped: dict[str, str] = {}
    for spec in specs:
        progress(f"opening {spec.label}", 0, 0)
        try:
            peer = stack.enter_context(PeerProcess(spec))
            attempt(peer)
        except PeerFault as fault:
            skipped[spec.label] = str(fault)
        else:
            peers[spec.label] = peer
    return peers, skipped


def under_roof(
    roofer: Roofer,
    subjects: Mapping[str, Callable[[], Timing]],
    rounds: int,
    turn: Callable[[str], None],
) -> tuple[tuple[Roof, ...], dict[str, tuple[Timing, ...]]]:
    """Measure engines and the machine's limits by turns: it is slow when they are.

    Returns:
        The limits, one a round, and by label each engine's timings.
    """
    roofs: list[Roof] = []

    def look() -> None:
        roofs.append(roofer.measure())

    timings = interleave({"the machine": look, **subjects}, rounds, turn)
    taken = {label: tuple(filter(None, timings[label])) for label in subjects}
    return tuple(roofs[1:]), taken
