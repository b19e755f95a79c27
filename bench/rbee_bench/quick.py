"""Everything that decides between engines, in a few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.agreement import Agreement, measure_agreement
from rbee_bench.arrivals import Arrivals, measure_arrivals
from rbee_bench.bystanders import Bystanders
from rbee_bench.cold import Cold, measure_cold
from rbee_bench.contest import Turns, open_peers
from rbee_bench.interleave import interleave
from rbee_bench.peers import Spec, Timing
from rbee_bench.servers import ServerSpec
from rbee_bench.subject import Progress, Subject

SEQUENCES, LENGTH, CONTEXT = 16, 256, 64
TOKENS, BATCH_TOKENS = 64, 32
CAPACITY = LENGTH + TOKENS
_ROUNDS, _BATCH_ROUNDS, _STARTS = 5, 4, 2


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
        cold: Starts of both.
        skipped: By label, why an engine did not run.
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
    prompt = list(islice(cycle(ids), LENGTH))
    stride = max(1, len(ids) // SEQUENCES)
    prompts = [
        list(islice(cycle(ids), row * stride, row * stride + CONTEXT)) for row in range(SEQUENCES)
    ]
    with ExitStack() as stack:
        peers, skipped = open_peers(stack, specs, lambda peer: peer.batch(prompts, 2), progress)
        turn = Turns(progress, len(peers) * (2 * (_ROUNDS + 1) + _BATCH_ROUNDS + 1))
        bystanders = Bystanders(peer.process_id for peer in peers.values())
        decode = interleave(
            {label: partial(peer.decode, prompt[:32], TOKENS) for label, peer in peers.items()},
            _ROUNDS,
            lambda label: turn(f"decode, {label}"),
        )
        prefill = interleave(
            {label: partial(peer.prefill, prompt) for label, peer in peers.items()},
            _ROUNDS,
            lambda label: turn(f"prefill, {label}"),
        )
        batch = interleave(
            {label: partial(peer.batch, prompts, BATCH_TOKENS) for label, peer in peers.items()},
            _BATCH_ROUNDS,
            lambda label: turn(f"{SEQUENCES} together, {label}"),
        )
        others = bystanders.share()
        engines = tuple(
            Engine(
                label,
                peer.spec.kind == "compiled",
                peer.version,
                *(_rates(taken[label]) for taken in (decode, prefill, batch)),
            )
            for label, peer in peers.items()
        )
        agreement = measure_agreement(peers, ids)
    burst = measure_arrivals(
        servers,
        text,
        rates=[None],
        requests=SEQUENCES,
        rounds=1,
        barred=barred,
        progress=progress,
    )
    cold = measure_cold(subject, servers, ids, _STARTS, progress, convert=False)
    return Quick(
        engines,
        agreement,
        burst,
        cold,
        skipped,
        max(others, burst.bystanders, cold.bystanders),
    )


def _rates(timings: Sequence[Timing]) -> tuple[float, ...]:
    return tuple(timing.rate for timing in timings)
