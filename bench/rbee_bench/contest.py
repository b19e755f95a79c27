"""Language models' engines at their turns, and what their rounds have in common."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rbee_bench.agreement import Agreement, measure_agreement
from rbee_bench.limits import Roof, Roofer
from rbee_bench.peers import PeerProcess, Reads, Spec, Timing
from rbee_bench.stats import spread
from rbee_bench.subject import Progress
from rbee_bench.taking_turns import take_turns

W = TypeVar("W", bound=Hashable)
T = TypeVar("T")


class Rounds:
    """What can be said of one engine's rates, one a round."""

    __slots__ = ()

    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        """The rate of the middle round."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """See :func:`~rbee_bench.stats.spread`."""
        return spread(self.rates)


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
    look = "the machine"
    engines: dict[str, Contestant] = {}
    agreement: Agreement | None = None

    def ask(peers: Mapping[str, PeerProcess]) -> None:
        nonlocal agreement
        for label, peer in peers.items():
            ours = peer.spec.kind == "compiled"
            engines[label] = Contestant(ours, peer.version, peer.reads())
        agreement = agreement or measure_agreement(peers, ids)

    taken = take_turns(
        specs,
        PeerProcess,
        attempt,
        dict[W, Callable[[PeerProcess], Timing | Roof]](works),
        rounds=rounds,
        progress=progress,
        first={look: Roofer(threads).measure},
        afterwards=ask,
    )
    assert agreement is not None  # there is a round at least
    return Contest(
        engines,
        {
            work: {label: _of(Timing, each) for label, each in by_label.items() if label != look}
            for work, by_label in taken.measured.items()
        },
        {work: _of(Roof, by_label[look]) for work, by_label in taken.measured.items()},
        agreement,
        taken.skipped,
        taken.bystanders,
    )


def _of(kind: type[T], each: Sequence[object]) -> tuple[T, ...]:
    return tuple(one for one in each if isinstance(one, kind))
