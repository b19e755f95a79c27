"""How fast each engine reads prompts, all of them by turns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from rbee_bench.bystanders import Bystanders
from rbee_bench.contest import Rounds, Turns, open_peers
from rbee_bench.interleave import interleave
from rbee_bench.peers import Spec
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
    """

    label: str
    ours: bool
    version: str
    length: int
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Prefill:
    """Every engine's rounds at every length, measured by turns.

    Attributes:
        lengths: Tokens of the prompts, in order.
        rows: Engine by engine, the compiled ones first, each length of it.
        skipped: By label, why an engine did not run.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    lengths: tuple[int, ...]
    rows: tuple[Reading, ...]
    skipped: dict[str, str]
    bystanders: float


def prefill_specs(subject: Subject, capacity: int, progress: Progress) -> list[Spec]:
    """Describe everything that is timed, the compiled runtime first."""
    return [
        *(subject.compiled(one, progress, capacity=capacity) for one in _PRECISIONS),
        *(subject.peer(kind, capacity) for kind in ("llama.cpp", "genai", "openvino", "eager")),
    ]


def measure_prefill(
    specs: Sequence[Spec],
    ids: Sequence[int],
    *,
    lengths: Sequence[int],
    rounds: int,
    progress: Progress,
) -> Prefill:
    """Time prompts of the first of ``ids``, repeated as needed.

    Raises:
        PeerFault: An engine that ran at first failed later.
    """
    lengths = sorted(set(lengths))
    prompts = {length: list(islice(cycle(ids), length)) for length in lengths}
    with ExitStack() as stack:
        peers, skipped = open_peers(
            stack, specs, lambda peer: peer.prefill(prompts[lengths[0]]), progress
        )
        turn = Turns(progress, len(peers) * len(lengths) * (rounds + 1))
        bystanders = Bystanders(peer.process_id for peer in peers.values())
        taken = {}
        for length, prompt in prompts.items():
            subjects = {label: partial(peer.prefill, prompt) for label, peer in peers.items()}
            taken[length] = interleave(subjects, rounds, turn)
        rows = tuple(
            Reading(
                label=label,
                ours=peer.spec.kind == "compiled",
                version=peer.version,
                length=length,
                rates=tuple(timing.rate for timing in taken[length][label]),
            )
            for label, peer in peers.items()
            for length in lengths
        )
        return Prefill(tuple(lengths), rows, skipped, bystanders.share())
