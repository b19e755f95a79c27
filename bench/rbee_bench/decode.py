"""How fast each engine decodes one sequence, all of them by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.bystanders import Bystanders
from rbee_bench.contest import Rounds, Turns, open_peers
from rbee_bench.interleave import interleave
from rbee_bench.limits import MemoryReader, decode_ceiling
from rbee_bench.peers import PeerProcess, Reads, Spec, Timing
from rbee_bench.stats import paired_ratio
from rbee_bench.subject import Progress, Subject

_PASSES = 3
"""Over the buffer a round; the fastest counts."""


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
class Decode:
    """Every engine's rounds, measured by turns.

    Attributes:
        context: Prompt tokens.
        tokens: Tokens asked for.
        rows: The engines that ran, the compiled ones first.
        bandwidth: Bytes a second that memory gave, one a round, by turns with the engines.
        skipped: By label, why an engine did not.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    context: int
    tokens: int
    rows: tuple[Speed, ...]
    bandwidth: tuple[float, ...]
    skipped: dict[str, str]
    bystanders: float

    def roofline(self, row: Speed) -> float | None:
        """Return the part of its ceiling that an engine reached, the median of the rounds.

        ``None`` where what it reads is not known. See
        :func:`~rbee_bench.limits.decode_ceiling`.
        """
        if row.reads is None:
            return None
        tokens = row.tokens + 1
        ceilings = [
            decode_ceiling(row.reads, self.context, tokens, bandwidth)
            for bandwidth in self.bandwidth
        ]
        return paired_ratio(row.rates, ceilings)


def decode_specs(subject: Subject, capacity: int, progress: Progress) -> list[Spec]:
    """Describe everything that is timed, the compiled runtime first."""
    return [
        *(subject.compiled(precision, progress) for precision in ("int4", "gguf", "int8")),
        *(subject.peer(kind, capacity) for kind in ("llama.cpp", "genai")),
        subject.untuned("genai", capacity),  # its default threads are not its best
        *(subject.peer(kind, capacity) for kind in ("openvino", "eager")),
    ]


def measure_decode(
    specs: Sequence[Spec],
    ids: Sequence[int],
    *,
    context: int,
    tokens: int,
    rounds: int,
    threads: int,
    progress: Progress,
) -> Decode:
    """Time the greedy completion of the first ``context`` of ``ids``, repeated as needed.

    Memory is read by turns with the engines, by ``threads`` threads: it is slow when they are.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    prompt = list(islice(cycle(ids), context))
    with ExitStack() as stack:
        peers, skipped = open_peers(
            stack, specs, lambda peer: peer.decode(prompt, tokens), progress
        )
        turn = Turns(progress, (len(peers) + 1) * (rounds + 1))
        memory = MemoryReader(threads)
        bandwidth: list[float] = []

        def read() -> None:
            bandwidth.append(max(memory.read() for _ in range(_PASSES)))

        subjects: dict[str, Callable[[], Timing | None]] = {"memory": read}
        for label, peer in peers.items():
            subjects[label] = partial(peer.decode, prompt, tokens)
        bystanders = Bystanders(peer.process_id for peer in peers.values())
        timings = interleave(subjects, rounds, turn)
        others = bystanders.share()
        rows = tuple(_speed(peer, filter(None, timings[label])) for label, peer in peers.items())
        return Decode(context, tokens, rows, tuple(bandwidth[1:]), skipped, others)


def _speed(peer: PeerProcess, taken: Iterable[Timing]) -> Speed:
    timings = list(taken)
    return Speed(
        label=peer.spec.label,
        ours=peer.spec.kind == "compiled",
        version=peer.version,
        tokens=min(timing.tokens for timing in timings),
        rates=tuple(timing.rate for timing in timings),
        reads=peer.reads(),
    )
