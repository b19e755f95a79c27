"""Everything that decides between engines, in a few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from rbee_bench.agreement import Agreement
from rbee_bench.arrivals import Arrivals, measure_arrivals
from rbee_bench.cold import Cold, measure_cold
from rbee_bench.contest import hold_contest
from rbee_bench.peers import Spec
from rbee_bench.servers import ServerSpec
from rbee_bench.subject import Progress, Subject

SEQUENCES, LENGTH, CONTEXT = 16, 256, 32
TOKENS, BATCH_TOKENS = 48, 24
CAPACITY = LENGTH + TOKENS
_ROUNDS, _STARTS = 4, 1
_TRIED = 4
_TOO_SLOW = "for it starts too slowly; arrivals and cold have it"


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine's rounds, in tokens a second.

    Attributes:
        label: The engine.
        ours: Whether it is the compiled runtime.
        version: Its version.
        decode: One sequence.
        prefill: One prompt.
        batch: New tokens of prompts completed together, prompts included.
    """

    label: str
    ours: bool
    version: str
    decode: tuple[float, ...]
    prefill: tuple[float, ...]
    batch: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quick:
    """Engines, servers and starts.

    Attributes:
        engines: Those that ran, the compiled ones first.
        agreement: Whether they say the right thing.
        burst: Servers that were asked for as much at once as the engines together.
        cold: Starts of both, but for the slow ones.
        skipped: By label, why an engine or a slow server did not run.
        bystanders: Share of the processor that other programs had meanwhile, at worst.
    """

    engines: tuple[Engine, ...]
    agreement: Agreement
    burst: Arrivals
    cold: Cold
    skipped: dict[str, str]
    bystanders: float


def measure_quick(
    subject: Subject,
    specs: Sequence[Spec],
    servers: Sequence[ServerSpec],
    ids: Sequence[int],
    text: str,
    *,
    barred: Sequence[int],
    progress: Progress,
) -> Quick:
    """Measure engines by turns, then servers, then starts.

    Raises:
        PeerFault: An engine that ran at first failed later.
        ServerFault: No server runs here.
    """
    soon = [spec for spec in servers if not spec.slow]
    prompt = list(islice(cycle(ids), LENGTH))
    stride = max(1, len(ids) // SEQUENCES)
    prompts = [
        list(islice(cycle(ids), row * stride, row * stride + CONTEXT)) for row in range(SEQUENCES)
    ]
    contest = hold_contest(
        specs,
        {
            "decode": lambda peer: peer.decode(prompt[:32], TOKENS),
            "prefill": lambda peer: peer.prefill(prompt),
            "batch": lambda peer: peer.batch(prompts, BATCH_TOKENS),
        },
        lambda peer: peer.batch([prompt[:_TRIED] for prompt in prompts], 2),
        ids,
        rounds=_ROUNDS,
        threads=subject.threads,
        progress=progress,
    )
    engines = tuple(
        Engine(
            label,
            engine.ours,
            engine.version,
            *(
                tuple(timing.rate for timing in contest.timings[work][label])
                for work in ("decode", "prefill", "batch")
            ),
        )
        for label, engine in contest.engines.items()
    )
    burst = measure_arrivals(
        soon,
        text,
        rates=[None],
        requests=SEQUENCES,
        rounds=1,
        barred=barred,
        progress=progress,
    )
    cold = measure_cold(subject, soon, ids, _STARTS, progress, convert=False, slow=False)
    return Quick(
        engines,
        contest.agreement,
        burst,
        cold,
        {**contest.skipped, **{spec.label: _TOO_SLOW for spec in servers if spec.slow}},
        max(contest.bystanders, burst.bystanders, cold.bystanders),
    )
