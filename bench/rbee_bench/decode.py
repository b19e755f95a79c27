"""How fast each engine decodes one sequence, all of them by turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.agreement import Agreement
from rbee_bench.contest import Contestant, Rounds, hold_contest
from rbee_bench.limits import Roof, decode_ceiling
from rbee_bench.peers import OTHERS, PeerProcess, Reads, Spec, Timing
from rbee_bench.stats import paired_ratio
from rbee_bench.subject import Progress, Subject


@dataclass(frozen=True, slots=True)
class Speed(Rounds):
    """One engine's rounds.

    Attributes:
        label: The engine.
        ours: Whether it is the compiled runtime.
        version: Its version.
        tokens: Tokens timed a round; fewer than for the others where its text ended early.
        rates: Tokens a second, one a round.
        reads: What a token makes it read, where that is known.
    """

    label: str
    ours: bool
    version: str
    tokens: int
    rates: tuple[float, ...]
    reads: Reads | None


@dataclass(frozen=True, slots=True)
class Continuation:
    """Every engine's rounds after prompts of one length.

    Attributes:
        context: Prompt tokens.
        rows: The engines that ran, the compiled ones first.
        roofs: The machine's limits, one a round, by turns with the engines.
    """

    context: int
    rows: tuple[Speed, ...]
    roofs: tuple[Roof, ...]

    def roofline(self, row: Speed) -> float | None:
        """Return the part of its ceiling that an engine reached, the median of the rounds.

        ``None`` where what it reads is not known. See
        :func:`~rbee_bench.limits.decode_ceiling`.
        """
        if row.reads is None:
            return None
        tokens = row.tokens + 1
        ceilings = [
            decode_ceiling(row.reads, self.context, tokens, roof.reading) for roof in self.roofs
        ]
        return paired_ratio(row.rates, ceilings)


@dataclass(frozen=True, slots=True)
class Decode:
    """Every engine's rounds, measured by turns.

    Attributes:
        tokens: Tokens asked for.
        parts: One for each length of prompt, in order.
        agreement: Whether the engines say the right thing.
        skipped: By label, why an engine did not run.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    tokens: int
    parts: tuple[Continuation, ...]
    agreement: Agreement
    skipped: dict[str, str]
    bystanders: float


def decode_specs(subject: Subject, capacity: int, progress: Progress) -> list[Spec]:
    """Describe everything that is timed, the compiled runtime first."""
    others = [subject.peer(kind, capacity) for kind in OTHERS]
    after = OTHERS.index("genai") + 1
    return [
        *subject.ours(("int4", "gguf", "int8"), progress),
        *others[:after],
        subject.untuned("genai", capacity),  # its default threads are not its best
        *others[after:],
    ]


def measure_decode(
    specs: Sequence[Spec],
    ids: Sequence[int],
    *,
    contexts: Sequence[int],
    tokens: int,
    rounds: int,
    threads: int,
    progress: Progress,
) -> Decode:
    """Time greedy completions of the first ``contexts`` of ``ids``, repeated as needed.

    The machine's limits are measured by turns with the engines, with ``threads`` threads.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    prompts = {context: list(islice(cycle(ids), context)) for context in sorted(set(contexts))}
    shortest = prompts[min(prompts)]

    def complete(prompt: Sequence[int], peer: PeerProcess) -> Timing:
        return peer.decode(prompt, tokens)

    contest = hold_contest(
        specs,
        {context: partial(complete, prompt) for context, prompt in prompts.items()},
        partial(complete, shortest),
        ids,
        rounds=rounds,
        threads=threads,
        progress=progress,
    )
    parts = tuple(
        Continuation(
            context,
            tuple(
                _speed(label, engine, contest.timings[context][label])
                for label, engine in contest.engines.items()
            ),
            contest.roofs[context],
        )
        for context in prompts
    )
    return Decode(tokens, parts, contest.agreement, contest.skipped, contest.bystanders)


def _speed(label: str, engine: Contestant, timings: Sequence[Timing]) -> Speed:
    return Speed(
        label=label,
        ours=engine.ours,
        version=engine.version,
        tokens=min(timing.tokens for timing in timings),
        rates=tuple(timing.rate for timing in timings),
        reads=engine.reads,
    )
