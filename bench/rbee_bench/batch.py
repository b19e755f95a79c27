"""How fast each engine completes many prompts at once, all of them by turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.bystanders import Bystanders
from rbee_bench.contest import Rounds, Turns, open_peers
from rbee_bench.interleave import interleave
from rbee_bench.peers import Kind, PeerProcess, Spec, Timing
from rbee_bench.subject import Progress, Subject
from rbee_runtime.artifact import Precision

_PRECISIONS: tuple[Precision, ...] = ("int4", "gguf")


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
    """

    label: str
    ours: bool
    version: str
    sequences: int
    tokens: int
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Every engine's rounds, measured by turns.

    Attributes:
        sequences: Prompts completed together.
        context: Tokens of each prompt.
        tokens: New tokens of each.
        rows: The engines that ran, the compiled ones first.
        skipped: By label, why an engine did not.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    sequences: int
    context: int
    tokens: int
    rows: tuple[Throughput, ...]
    skipped: dict[str, str]
    bystanders: float


def batch_specs(subject: Subject, capacity: int, sequences: int, progress: Progress) -> list[Spec]:
    """Describe everything that is timed: the compiled runtime, then alone, then the others."""
    together = [
        subject.compiled(precision, progress, capacity=capacity, sequences=sequences)
        for precision in _PRECISIONS
    ]
    alone = [
        dataclasses.replace(spec, label=f"{spec.label}, one at a time", sequences=1)
        for spec in together
        if sequences > 1
    ]
    kinds: tuple[Kind, ...] = ("llama.cpp", "genai", "openvino", "eager")
    others = [subject.peer(kind, capacity, sequences) for kind in kinds]
    return [*together, *alone, *others]


def measure_batch(
    specs: Sequence[Spec],
    ids: Sequence[int],
    *,
    sequences: int,
    context: int,
    tokens: int,
    rounds: int,
    progress: Progress,
) -> Batch:
    """Time greedy completions of prompts cut from ``ids``, repeated as needed.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    stride = max(1, len(ids) // sequences)
    prompts = [
        list(islice(cycle(ids), row * stride, row * stride + context)) for row in range(sequences)
    ]
    with ExitStack() as stack:
        peers, skipped = open_peers(
            stack, specs, lambda peer: peer.batch(prompts[: peer.spec.sequences], 2), progress
        )
        turn = Turns(progress, len(peers) * (rounds + 1))
        subjects = {
            label: partial(peer.batch, prompts[: peer.spec.sequences], tokens)
            for label, peer in peers.items()
        }
        bystanders = Bystanders(peer.process_id for peer in peers.values())
        timings = interleave(subjects, rounds, turn)
        rows = tuple(_throughput(peers[label], taken) for label, taken in timings.items())
        return Batch(sequences, context, tokens, rows, skipped, bystanders.share())


def _throughput(peer: PeerProcess, timings: Sequence[Timing]) -> Throughput:
    return Throughput(
        label=peer.spec.label,
        ours=peer.spec.kind == "compiled",
        version=peer.version,
        sequences=peer.spec.sequences,
        tokens=min(timing.tokens for timing in timings),
        rates=tuple(timing.rate for timing in timings),
    )
