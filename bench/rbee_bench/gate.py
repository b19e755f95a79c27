"""Is this tree slower than another revision of it? Both are run by turns, each from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from rbee_bench.bystanders import Bystanders
from rbee_bench.effort import BATCHES
from rbee_bench.stats import paired_ratio, ratio_interval
from rbee_bench.subject import Progress
from rbee_bench.trees import Round, Trees, opened

LEAST, MOST = 8, 32
"""Rounds before the first verdict, and after which there will be none."""

_MORE = 4

Unit = Literal["seconds a token", "seconds", "bytes", "instructions"]

_LIMITS: Mapping[str, tuple[Unit, float]] = {
    "decode": ("seconds a token", 0.05),
    "prefill": ("seconds a token", 0.05),
    "start": ("seconds", 0.10),
    "memory": ("bytes", 0.10),
}
_COUNT_LIMIT = 0.05


class Verdict(Enum):
    """What the rounds so far say."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Figure:
    """A cost, of which less is better, in both trees.

    Attributes:
        name: What it is.
        unit: Its unit.
        limit: How much more this tree may need, as a part of the base's.
        base: The base's, one a round.
        this: This tree's, in the same rounds.
    """

    name: str
    unit: Unit
    limit: float
    base: tuple[float, ...]
    this: tuple[float, ...]

    @property
    def change(self) -> float:
        """The middle one of the changes."""
        return paired_ratio(self.this, self.base) - 1

    @property
    def interval(self) -> tuple[float, float]:
        """Where the change is with 99 % confidence; see ``ratio_interval``. A count is exact."""
        if self.unit == "instructions":
            return self.change, self.change  # counted, not estimated
        low, high = ratio_interval(self.this, self.base, 0.99)
        return low - 1, high - 1

    @property
    def bounded(self) -> bool:
        """Whether there were rounds enough for an interval."""
        return self.interval[1] < float("inf")

    @property
    def verdict(self) -> Verdict:
        """Passed or failed once the whole interval is on one side of the limit."""
        low, high = self.interval
        if low > self.limit:
            return Verdict.FAILED
        return Verdict.PASSED if high <= self.limit else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Gate:
    """This tree beside its base.

    Attributes:
        base: The revision as it was asked for.
        commit: The commit that names.
        figures: What was compared.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    base: str
    commit: str
    figures: tuple[Figure, ...]
    bystanders: float

    @property
    def rounds(self) -> int:
        """Rounds that were needed; 0 where nothing was timed."""
        return len(self.figures[0].base) if self.figures[0].unit != "instructions" else 0

    @property
    def verdict(self) -> Verdict:
        """Failed if any figure did; passed if every one did."""
        verdicts = [figure.verdict for figure in self.figures]
        for verdict in (Verdict.FAILED, Verdict.UNDECIDED):
            if verdict in verdicts:
                return verdict
        return Verdict.PASSED


def measure_gate(
    base: str,
    model: Path | None,
    threads: int,
    progress: Progress,
    slowdown: float = 0.0,
    *,
    counts_only: bool = False,
    least: int = LEAST,
    most: int = MOST,
) -> Gate:
    """Compare this tree with a revision, in rounds, until they agree or there are too many.

    A round opens both trees anew, for where a process's memory lands decides some per cent of its
    speed; within it they take turns, and the middle one of each counts.
    The base is exported and run by its own packages; only this package, which measures, is this
    tree's for both.

    Args:
        base: A git revision.
        model: A checkpoint; ``None`` for a small one of random weights and short turns.
        threads: Threads the peers are told to compute with.
        progress: Called as it goes on.
        slowdown: A part of their time that is added to this tree's, to try the gate.
        counts_only: Whether to time nothing: what is counted needs no quiet machine.
        least: Rounds before the first verdict.
        most: Rounds at most.

    Raises:
        GateFault: This is no git checkout, it has no such revision, or one of the two cannot be
            exported.
        PeerFault: One of the two cannot run it.
        StartFault: One of the two does not start a worker on it.
    """
    with opened(base, model, threads, progress) as trees:
        if counts_only:
            return Gate(base, trees.commit, _counted(trees), 0.0)
        return judge(base, trees, (slowdown,), least=least, most=most, progress=progress)[0]


def judge(
    base: str,
    trees: Trees,
    slowdowns: Sequence[float],
    *,
    least: int,
    most: int,
    progress: Progress,
) -> list[Gate]:
    """Take rounds until there is a verdict for each slowdown, or there are too many.

    Args:
        base: The revision as it was asked for.
        trees: Both, ready to run.
        slowdowns: Parts of its times that are added to this tree's, each for a gate of its own.
        least: Rounds before the first verdict.
        most: Rounds at most.
        progress: Called as it goes on.

    Returns:
        A gate for each slowdown, all from the same rounds.

    Raises:
        PeerFault: One of the trees cannot run its artifact.
        StartFault: One of them does not start a worker on it.
    """
    bystanders = Bystanders()
    rounds: list[Round] = []
    while True:
        wanted = least if not rounds else min(most, len(rounds) + _MORE)
        while len(rounds) < wanted:
            what = "rounds" if len(rounds) < least else "noisy, more"
            progress(what, len(rounds), wanted)
            rounds.append(trees.round(len(rounds)))
        counted = _counted(trees)
        gates = [
            Gate(base, trees.commit, _timed(rounds, slowdown) + counted, bystanders.share())
            for slowdown in slowdowns
        ]
        decided = all(gate.verdict is not Verdict.UNDECIDED for gate in gates)
        if decided or len(rounds) >= most:
            return gates


def _counted(trees: Trees) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            f"Python, {batch} at a time",
            "instructions",
            _COUNT_LIMIT,
            (trees.base.effort[batch],),
            (trees.this.effort[batch],),
        )
        for batch in BATCHES
    )


def _timed(rounds: Sequence[Round], slowdown: float) -> tuple[Figure, ...]:
    figures = []
    for name, (unit, limit) in _LIMITS.items():
        slower = 1 + slowdown if unit != "bytes" else 1
        base = tuple(one[name] for one, _ in rounds)
        this = tuple(other[name] * slower for _, other in rounds)
        figures.append(Figure(name, unit, limit, base, this))
    return tuple(figures)
