"""How fast each engine completes many prompts at once, all of them by turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.agreement import Agreement
from rbee_bench.contest import Rounds, hold_contest
from rbee_bench.limits import Roof, batch_ceiling
from rbee_bench.peers import OTHERS, PeerProcess, Reads, Spec, Timing
from rbee_bench.stats import paired_ratio
from rbee_bench.subject import Progress, Subject
from rbee_runtime.artifact import Precision

_PRECISIONS: tuple[Precision, ...] = ("int4", "gguf")
_TRIED = 4
"""Tokens of the prompts that show whether an engine can."""


@dataclass(frozen=True, slots=True)
class Throughput(Rounds):
    """One engine's rounds.

    Attributes:
        label: The engine.
        ours: Whether it is the compiled runtime.
        version: Its version.
        sequences: Sequences it had at a time.
        tokens: New tokens of a round; fewer than asked for where texts ended early.
        rates: New tokens a second, all sequences together and prompts included, one a round.
        reads: What a token makes it read and compute, where that is known.
    """

    label: str
    ours: bool
    version: str
    sequences: int
    tokens: int
    rates: tuple[float, ...]
    reads: Reads | None


@dataclass(frozen=True, slots=True)
class Together:
    """Every engine's rounds with one number of prompts.

    Attributes:
        sequences: Prompts completed together.
        rows: The engines that ran, the compiled ones first.
        roofs: The machine's limits, one a round, by turns with the engines.
        agreement: Whether the engines say the right thing.
        skipped: By label, why an engine did not run.
    """

    sequences: int
    rows: tuple[Throughput, ...]
    roofs: tuple[Roof, ...]
    agreement: Agreement
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """Every engine's rounds, measured by turns.

    Attributes:
        context: Tokens of each prompt.
        tokens: New tokens of each.
        parts: One for each number of prompts, in order.
        bystanders: Share of the processor that other programs had meanwhile, at worst.
    """

    context: int
    tokens: int
    parts: tuple[Together, ...]
    bystanders: float

    def roofline(self, part: Together, row: Throughput) -> float | None:
        """Return the part of its ceiling that an engine reached, the median of the rounds.

        ``None`` where what it reads and computes in is not known. See
        :func:`~rbee_bench.limits.batch_ceiling`.
        """
        reads, size = row.reads, row.sequences
        if reads is None or reads.arithmetic is None:
            return None
        ceilings = [
            batch_ceiling(reads, size, self.context, self.tokens, roof) for roof in part.roofs
        ]
        return paired_ratio(row.rates, ceilings)


def batch_specs(
    subject: Subject, capacity: int, sequences: int, progress: Progress, *, alone: bool
) -> list[Spec]:
    """Describe everything that is timed, the compiled runtime first.

    Args:
        subject: The model.
        capacity: Positions of each sequence.
        sequences: At a time.
        progress: Called while something is exported.
        alone: Whether the compiled runtime is also to take one sequence at a time.
    """
    together = subject.ours(_PRECISIONS, progress, capacity=capacity, sequences=sequences)
    single = [
        dataclasses.replace(spec, label=f"{spec.label}, one at a time", sequences=1)
        for spec in together
        if alone and sequences > 1
    ]
    others = [subject.peer(kind, capacity, sequences) for kind in OTHERS]
    return [*together, *single, *others]


def measure_batch(
    specs: Mapping[int, Sequence[Spec]],
    ids: Sequence[int],
    *,
    context: int,
    tokens: int,
    rounds: int,
    threads: int,
    progress: Progress,
) -> Batch:
    """Time greedy completions of prompts cut from ``ids``, repeated as needed.

    Args:
        specs: By how many prompts come together, the engines.
        ids: Tokens.
        context: Tokens of each prompt.
        tokens: New tokens of each.
        rounds: Rounds that count.
        threads: To measure the machine's limits with, by turns with the engines.
        progress: Called as it goes on.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    parts, bystanders = [], 0.0
    for sequences, engines in sorted(specs.items()):
        stride = max(1, len(ids) // sequences)
        prompts = [
            list(islice(cycle(ids), row * stride, row * stride + context))
            for row in range(sequences)
        ]
        contest = hold_contest(
            engines,
            {sequences: partial(_complete, prompts, tokens)},
            partial(_complete, [prompt[:_TRIED] for prompt in prompts], 2),
            ids,
            rounds=rounds,
            threads=threads,
            progress=partial(_numbered, progress, sequences),
        )
        sizes = {spec.label: spec.sequences for spec in engines}
        rows = tuple(
            Throughput(
                label=label,
                ours=engine.ours,
                version=engine.version,
                sequences=sizes[label],
                tokens=min(timing.tokens for timing in contest.timings[sequences][label]),
                rates=tuple(timing.rate for timing in contest.timings[sequences][label]),
                reads=engine.reads,
            )
            for label, engine in contest.engines.items()
        )
        roofs = contest.roofs[sequences]
        parts.append(Together(sequences, rows, roofs, contest.agreement, contest.skipped))
        bystanders = max(bystanders, contest.bystanders)
    return Batch(context, tokens, tuple(parts), bystanders)


def _complete(prompts: Sequence[Sequence[int]], tokens: int, peer: PeerProcess) -> Timing:
    return peer.batch(prompts[: peer.spec.sequences], tokens)


def _numbered(progress: Progress, sequences: int, what: str, done: int, total: int) -> None:
    progress(f"{what}, {sequences} prompts", done, total)
