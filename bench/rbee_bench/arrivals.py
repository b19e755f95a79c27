"""How long requests wait that arrive at random, over HTTP, at each server by turns."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import httpx

from rbee_bench.bystanders import Bystanders
from rbee_bench.percentiles import Percentiles
from rbee_bench.servers import Answer, Question, ServerFault, ServerProcess, ServerSpec, ask
from rbee_bench.stats import spread
from rbee_bench.subject import Progress
from rbee_bench.taking_turns import Turns

LEAST_LIKE = 1 / 3
"""Answers that must begin like the reference's; a server with fewer is marked as wrong."""

_LETTERS = (160, 640, 1600)
_TOKENS = (16, 64, 128)
_BEGINNING = 8
_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to come.

    Attributes:
        at: Seconds after the first.
        question: What it asks.
    """

    at: float
    question: Question


@dataclass(frozen=True, slots=True)
class Waits:
    """One server under one load.

    Attributes:
        label: The server.
        ours: Whether it is the compiled worker.
        rate: Requests a second that came, on average; ``None`` for all of them at once.
        first: From a request to its first token.
        between: From one token to the next.
        whole: From a request to the end of its answer.
        throughput: New tokens a second, from the first request to the last end.
        spread: Of the rounds' median times to the first token.
        alike: Share of answers that begin like those of the reference to the same question.
        early: Answers that ended before they were as long as asked for.
        faults: By what went wrong, how often.
    """

    label: str
    ours: bool
    rate: float | None
    first: Percentiles
    between: Percentiles
    whole: Percentiles
    throughput: float
    spread: float
    alike: float
    early: int
    faults: dict[str, int]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Every server under every load.

    Attributes:
        requests: Of one server under one load, all rounds together.
        reference: The server whose answers the others' are compared with.
        rows: Load by load, each server.
        notes: By label, what is to be known of a server.
        skipped: By label, why one did not run.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    requests: int
    reference: str
    rows: tuple[Waits, ...]
    notes: dict[str, str]
    skipped: dict[str, str]
    bystanders: float


def schedule(
    text: str, requests: int, rate: float | None, seed: int, barred: Sequence[int]
) -> list[Arrival]:
    """Return a Poisson process: independent gaps of ``1 / rate`` seconds on average, or none.

    Prompts are of some 40, 160 or 400 tokens, no two with a common beginning; answers are of 16, 64
    or 128. The same arguments give the same requests.
    """
    draw = random.Random(seed)
    at, arrivals = 0.0, []
    for _ in range(requests):
        letters = draw.choice(_LETTERS)
        begin = draw.randrange(len(text) - letters)
        prompt = f"{draw.randrange(10**6):06}, {text[begin : begin + letters]}"
        arrivals.append(Arrival(at, Question(prompt, draw.choice(_TOKENS), barred)))
        at += 0.0 if rate is None else draw.expovariate(rate)
    return arrivals


def load(rate: float | None) -> str:
    """Return a load in words."""
    return "all at once" if rate is None else f"{rate:g} a second"


def measure_arrivals(
    specs: Sequence[ServerSpec],
    text: str,
    *,
    rates: Sequence[float | None],
    requests: int,
    rounds: int,
    barred: Sequence[int],
    progress: Progress,
) -> Arrivals:
    """Send each server the same requests at the same times, load by load, by turns.

    Args:
        specs: The servers.
        text: What prompts are cut from.
        rates: Requests a second; ``None`` for all of them at once.
        requests: Of one round.
        rounds: Under each load, each with requests of its own.
        barred: Tokens that would end an answer early.
        progress: Called as it goes on.

    Raises:
        ServerFault: None of them runs here.
    """
    with ExitStack() as stack:
        servers, skipped = open_servers(stack, specs, progress)
        turn = Turns(progress, len(servers) * len(rates) * rounds)
        bystanders = Bystanders(server.process_id for server in servers.values())
        rows: list[Waits] = []
        # The worker's most exact form, where there are several.
        reference = "gguf" if "gguf" in servers else next(iter(servers))
        for rate in dict.fromkeys(rates):
            taken: dict[str, list[list[Answer]]] = defaultdict(list)
            for number in range(rounds):
                arrivals = schedule(text, requests, rate, number, barred)
                for label, server in servers.items():
                    taken[label].append(asyncio.run(_send(server, arrivals)))
                    server.settle()
                    turn(f"{label}, {load(rate)}")
            for label, server in servers.items():
                rows.append(_waits(server.spec, rate, taken[label], taken[reference]))
        notes = {spec.label: spec.note for spec in specs if spec.note and spec.label in servers}
        return Arrivals(
            requests * rounds, reference, tuple(rows), notes, skipped, bystanders.share()
        )


def open_servers(
    stack: ExitStack, specs: Sequence[ServerSpec], progress: Progress
) -> tuple[dict[str, ServerProcess], dict[str, str]]:
    """Start every server that runs here; the others are returned with why they do not.

    Raises:
        ServerFault: None runs.
    """
    servers: dict[str, ServerProcess] = {}
    skipped: dict[str, str] = {}
    for spec in specs:
        progress(f"starting {spec.label}", 0, 0)
        try:
            servers[spec.label] = stack.enter_context(ServerProcess(spec))
            servers[spec.label].settle()
        except ServerFault as fault:
            skipped[spec.label] = str(fault)
    if not servers:
        raise ServerFault("; ".join(f"{label}: {why}" for label, why in skipped.items()))
    return servers, skipped


async def _send(server: ServerProcess, arrivals: Sequence[Arrival]) -> list[Answer]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=_TIMEOUT_SECONDS, limits=limits
    ) as client:

        async def one(arrival: Arrival) -> Answer:
            await asyncio.sleep(arrival.at)
            return await ask(client, server.model, arrival.question)

        return list(await asyncio.gather(*map(one, arrivals)))


def _waits(
    spec: ServerSpec,
    rate: float | None,
    rounds: Sequence[Sequence[Answer]],
    reference: Sequence[Sequence[Answer]],
) -> Waits:
    answers = [answer for one in rounds for answer in one]
    good = [answer for answer in answers if not answer.fault]
    faults: dict[str, int] = defaultdict(int)
    for answer in answers:
        if answer.fault:
            faults[answer.fault] += 1
    firsts = [[a.first for a in one if not a.fault] for one in rounds]
    medians = [Percentiles.of(one).p50 for one in firsts if one]
    pairs = zip(answers, (answer for one in reference for answer in one), strict=True)
    alike = sum(a.text[:_BEGINNING] == b.text[:_BEGINNING] for a, b in pairs)
    # Pieces, which are tokens but for those that are parts of a character.
    pieces = sum(len(answer.times) for answer in good)
    seconds = sum(max(a.ended for a in one) - min(a.began for a in one) for one in rounds)
    return Waits(
        label=spec.label,
        ours=spec.ours,
        rate=rate,
        first=Percentiles.of([a.first for a in good]),
        between=Percentiles.of([gap for a in good for gap in a.gaps]),
        whole=Percentiles.of([a.seconds for a in good]),
        throughput=pieces / seconds,
        spread=spread(medians),
        alike=alike / len(answers),
        early=sum(answer.reason != "length" for answer in good),
        faults=dict(faults),
    )
