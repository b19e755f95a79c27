"""Engines opened side by side, and their turns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from rbee_bench.bystanders import Bystanders
from rbee_bench.engine_process import EngineProcess, PeerFault, alone
from rbee_bench.interleave import interleave
from rbee_bench.stats import halves
from rbee_bench.subject import Progress


class Labelled(Protocol):
    """Says what to open."""

    @property
    def label(self) -> str: ...  # noqa: D102


S = TypeVar("S", bound=Labelled)
P = TypeVar("P", bound=EngineProcess)
W = TypeVar("W", bound=Hashable)
T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class Taken(Generic[W, T]):
    """What was measured at the turns.

    Attributes:
        measured: By work and label, one a round.
        skipped: By label, why an engine did not run.
        bystanders: Share of the processor that other programs had meanwhile, at worst.
    """

    measured: dict[W, dict[str, tuple[T, ...]]]
    skipped: dict[str, str]
    bystanders: float


def take_turns(
    specs: Sequence[S],
    opened: Callable[[S], P],
    attempt: Callable[[P], object],
    works: Mapping[W, Callable[[P], T]],
    *,
    rounds: int,
    progress: Progress,
    first: Mapping[str, Callable[[], T]] | None = None,
    afterwards: Callable[[Mapping[str, P]], object],
) -> Taken[W, T]:
    """Have engines do each work by turns.

    Where a process lands in memory decides some per cent of its speed: for the second half of the
    rounds all engines are opened anew. A round comes before each half, and is dropped.

    Args:
        specs: The engines.
        opened: Opens one in a process of its own.
        attempt: Does as much of a work once as shows whether an engine can.
        works: What is measured.
        rounds: Rounds that count.
        progress: Called as it goes on.
        first: By label, what is measured before the engines in every round, and is none.
        afterwards: Called with the engines, by label, at the end of each half.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    skipped: dict[str, str] = {}
    measured: dict[W, dict[str, tuple[T, ...]]] = {work: {} for work in works}
    bystanders = 0.0
    for half in filter(None, halves(rounds)):
        with ExitStack() as stack:
            able = [spec for spec in specs if spec.label not in skipped]
            engines, unable = _open_all(stack, able, opened, attempt, progress)
            skipped |= unable
            for engine in engines.values():
                engine.pause()
            turn = Turns(progress, len(works) * (len(engines) + len(first or ())) * (half + 1))
            others = Bystanders(engine.process_id for engine in engines.values())
            for work, measure in works.items():
                subjects: dict[str, Callable[[], T]] = dict(first or {})
                for label, engine in engines.items():
                    subjects[label] = partial(alone, engine, partial(measure, engine))
                for label, taken in interleave(subjects, half, turn).items():
                    measured[work][label] = measured[work].get(label, ()) + taken
            bystanders = max(bystanders, others.share())
            for engine in engines.values():
                engine.resume()
            afterwards(engines)
    return Taken(measured, skipped, bystanders)


def _open_all(
    stack: ExitStack,
    specs: Sequence[S],
    opened: Callable[[S], P],
    attempt: Callable[[P], object],
    progress: Progress,
) -> tuple[dict[str, P], dict[str, str]]:
    """Return the engines that can do what is to be measured, and why the others cannot."""
    engines: dict[str, P] = {}
    skipped: dict[str, str] = {}
    for spec in specs:
        progress(f"opening {spec.label}", 0, 0)
        try:
            engine = opened(spec)
            stack.enter_context(engine)
            attempt(engine)
        except PeerFault as fault:
            skipped[spec.label] = str(fault)
        else:
            engines[spec.label] = engine
    return engines, skipped
