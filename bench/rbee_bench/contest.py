"""Engines opened side by side, and what their rounds have in common."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from rbee_bench.agreement import Agreement, measure_agreement
from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import interleave
from rbee_bench.limits import Roof, Roofer
from rbee_bench.peers import PeerFault, PeerProcess, Reads, Spec, Timing, alone
from rbee_bench.stats import halves, spread
from rbee_bench.subject import Progress

W = TypeVar("W", bound=Hashable)


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


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine that ran.

    Attributes:
        ours: Whether it is the compiled runtime.
        version: Its version.
        reads: What a token makes it read and compute, where that is known.
    """

    ours: bool
    version: str
    reads: Reads | None


@dataclass(frozen=True, slots=True)
class Contest(Generic[W]):
    """Engines at some works, by turns.

    Attributes:
        engines: By label, those that ran, in the order of their specs.
        timings: By work and label, one a round.
        roofs: By work, the machine's limits, one a round, by turns with the engines.
        agreement: Whether they say the right thing.
        skipped: By label, why an engine did not run.
        bystanders: Share of the processor that other programs had meanwhile, at worst.
    """

    engines: dict[str, Contestant]
    timings: dict[W, dict[str, tuple[Timing, ...]]]
    roofs: dict[W, tuple[Roof, ...]]
    agreement: Agreement
    skipped: dict[str, str]
    bystanders: float


def hold_contest(
    specs: Sequence[Spec],
    works: Mapping[W, Callable[[PeerProcess], Timing]],
    attempt: Callable[[PeerProcess], object],
    ids: Sequence[int],
    *,
    rounds: int,
    threads: int,
    progress: Progress,
) -> Contest[W]:
    """Time engines at each work, by turns with each other and with the machine's limits.

    Where a process lands in memory decides some per cent of its speed: for the second half of the
    rounds all engines are opened anew. A round comes before each half, and is dropped.

    Args:
        specs: The engines.
        works: What is timed.
        attempt: Does as much of it once as shows whether an engine can.
        ids: Tokens, for :func:`~rbee_bench.agreement.measure_agreement`.
        rounds: Rounds that count.
        threads: To measure the machine's limits with.
        progress: Called as it goes on.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    roofer, look = Roofer(threads), "the machine"
    engines: dict[str, Contestant] = {}
    skipped: dict[str, str] = {}
    timings: dict[W, dict[str, tuple[Timing, ...]]] = {work: {} for work in works}
    roofs: dict[W, tuple[Roof, ...]] = dict.fromkeys(works, ())
    agreement: Agreement | None = None
    bystanders = 0.0
    for half in filter(None, halves(rounds)):
        with ExitStack() as stack:
            able = [spec for spec in specs if spec.label not in skipped]
            peers, unable = open_peers(stack, able, attempt, progress)
            skipped |= unable
            for peer in peers.values():
                peer.pause()
            turn = Turns(progress, len(works) * (len(peers) + 1) * (half + 1))
            others = Bystanders(peer.process_id for peer in peers.values())
            for work, measure in works.items():
                subjects: dict[str, Callable[[], Timing | Roof]] = {look: roofer.measure}
                for label, peer in peers.items():
                    subjects[label] = partial(alone, peer, partial(measure, peer))
                for label, taken in interleave(subjects, half, turn).items():
                    if label == look:
                        roofs[work] += tuple(one for one in taken if isinstance(one, Roof))
                    else:
                        known = timings[work].get(label, ())
                        new = tuple(one for one in taken if isinstance(one, Timing))
                        timings[work][label] = known + new
            bystanders = max(bystanders, others.share())
            for label, peer in peers.items():
                peer.resume()
                ours = peer.spec.kind == "compiled"
                engines[label] = Contestant(ours, peer.version, peer.reads())
            agreement = agreement or measure_agreement(peers, ids)
    assert agreement is not None  # there is a round at least
    return Contest(engines, timings, roofs, agreement, skipped, bystanders)
