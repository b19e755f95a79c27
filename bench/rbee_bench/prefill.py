"""How fast each engine reads prompts, all of them by turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.agreement import Agreement
from rbee_bench.contest import Rounds, hold_contest
from rbee_bench.limits import Roof, prefill_ceiling
from rbee_bench.peers import OTHERS, PeerProcess, Reads, Spec, Timing
from rbee_bench.stats import paired_ratio
from rbee_bench.subject import Progress, Subject
from rbee_runtime.artifact import Precision

_PRECISIONS: tuple[Precision, ...] = ("int4", "gguf")


@dataclass(frozen=True, slots=True)
class Reading(Rounds):
    """One engine's rounds at one length.

    Attributes:
        label: The engine.
        ours: Whether it is the compiled runtime.
        version: Its version.
        length: Tokens of the prompt.
        rates: Prompt tokens a second, from the prompt to the logits at its end, one a round.
        reads: What a token makes it read and compute, where that is known.
    """

    label: str
    ours: bool
    version: str
    length: int
    rates: tuple[float, ...]
    reads: Reads | None


@dataclass(frozen=True, slots=True)
class Prefill:
    """Every engine's rounds at every length, measured by turns.

    Attributes:
        lengths: Tokens of the prompts, in order.
        rows: Engine by engine, the compiled ones first, each length of it.
        roofs: By length, the machine's limits, one a round, by turns with the engines.
        agreement: Whether they say the right thing.
        skipped: By label, why an engine did not run.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    lengths: tuple[int, ...]
    rows: tuple[Reading, ...]
    roofs: dict[int, tuple[Roof, ...]]
    agreement: Agreement
    skipped: dict[str, str]
    bystanders: float

    def roofline(self, row: Reading) -> float | None:
        """Return the part of its ceiling that an engine reached, the median of the rounds.

        ``None`` where what it reads and computes in is not known. See
        :func:`~rbee_bench.limits.prefill_ceiling`.
        """
        reads = row.reads
        if reads is None or reads.arithmetic is None:
            return None
        ceilings = [prefill_ceiling(reads, row.length, roof) for roof in self.roofs[row.length]]
        return paired_ratio(row.rates, ceilings)


def prefill_specs(subject: Subject, capacity: int, progress: Progress) -> list[Spec]:
    """Describe everything that is timed, the compiled runtime first."""
    return [
        *subject.ours(_PRECISIONS, progress, capacity=capacity),
        *(subject.peer(kind, capacity) for kind in OTHERS),
    ]


def measure_prefill(
    specs: Sequence[Spec],
    ids: Sequence[int],
    *,
    lengths: Sequence[int],
    rounds: int,
    threads: int,
    progress: Progress,
) -> Prefill:
    """Time prompts of the first of ``ids``, repeated as needed.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    lengths = sorted(set(lengths))
    prompts = {length: list(islice(cycle(ids), length)) for length in lengths}

    def read(prompt: Sequence[int], peer: PeerProcess) -> Timing:
        return peer.prefill(prompt)

    contest = hold_contest(
        specs,
        {length: partial(read, prompt) for length, prompt in prompts.items()},
        partial(read, prompts[lengths[0]]),
        ids,
        rounds=rounds,
        threads=threads,
        progress=progress,
    )
    rows = tuple(
        Reading(
            label=label,
            ours=engine.ours,
            version=engine.version,
            length=length,
            rates=tuple(timing.rate for timing in contest.timings[length][label]),
            reads=engine.reads,
        )
        for label, engine in contest.engines.items()
        for length in lengths
    )
    return Prefill(
        tuple(lengths),
        rows,
        contest.roofs,
        contest.agreement,
        contest.skipped,
        contest.bystanders,
    )
