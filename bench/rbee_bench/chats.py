"""Chats that begin alike, over HTTP: what a server makes of what it has read before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import httpx

from rbee_bench.arrivals import open_servers
from rbee_bench.bystanders import Bystanders
from rbee_bench.percentiles import Percentiles
from rbee_bench.servers import Answer, Question, ServerProcess, ServerSpec, ask
from rbee_bench.subject import Progress
from rbee_bench.taking_turns import Turns

_LETTERS = 3200
_TOKENS = 32
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Chatting:
    """One server's chats.

    Attributes:
        label: The server.
        ours: Whether it is the compiled worker.
        unknown: To the first token of the first chat of a round, whose beginning is new.
        shared: Of the other chats' first turns, which begin as that one did.
        continued: Of later turns, which begin as the chat's own turn before.
        seconds: From a round's first request to its last end, one a round.
        faults: Requests that went wrong; their waits are in none of these.
    """

    label: str
    ours: bool
    unknown: Percentiles
    shared: Percentiles
    continued: Percentiles
    seconds: tuple[float, ...]
    faults: int


@dataclass(frozen=True, slots=True)
class Chats:
    """Every server's chats.

    Attributes:
        chats: Of one round, at a time.
        turns: Of each.
        rows: The servers that ran.
        notes: By label, what is to be known of a server.
        skipped: By label, why one did not run.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    chats: int
    turns: int
    rows: tuple[Chatting, ...]
    notes: dict[str, str]
    skipped: dict[str, str]
    bystanders: float


@dataclass(frozen=True, slots=True)
class _Round:
    unknown: Answer
    shared: Sequence[Answer]
    continued: Sequence[Answer]

    @property
    def answers(self) -> list[Answer]:
        return [self.unknown, *self.shared, *self.continued]

    @property
    def seconds(self) -> float:
        return max(answer.ended for answer in self.answers) - self.unknown.began


def measure_chats(
    specs: Sequence[ServerSpec],
    text: str,
    *,
    chats: int,
    rounds: int,
    barred: Sequence[int],
    progress: Progress,
) -> Chats:
    """Have chats of three turns under one long system message, new each round, by turns.

    The first chat asks alone; once it is answered, the others begin, and all go on together.

    Args:
        specs: The servers.
        text: What system messages are cut from.
        chats: At a time.
        rounds: Of each server; one more comes before, and is dropped.
        barred: Tokens that would end an answer early.
        progress: Called as it goes on.

    Raises:
        ServerFault: None of the servers runs here.
    """
    with ExitStack() as stack:
        servers, skipped = open_servers(stack, specs, progress)
        turn = Turns(progress, len(servers) * (rounds + 1))
        bystanders = Bystanders(server.process_id for server in servers.values())
        taken: dict[str, list[_Round]] = {label: [] for label in servers}
        for number in range(rounds + 1):
            begin = number * 997 % (len(text) - _LETTERS)
            system = f"Text {number}. {text[begin : begin + _LETTERS]}"
            for label, server in servers.items():
                taken[label].append(asyncio.run(_chat(server, system, chats, barred)))
                server.settle()
                turn(label)
        rows = tuple(_chatting(servers[label].spec, all_[1:]) for label, all_ in taken.items())
        notes = {spec.label: spec.note for spec in specs if spec.note and spec.label in servers}
        return Chats(chats, _TURNS, rows, notes, skipped, bystanders.share())


async def _chat(server: ServerProcess, system: str, chats: int, barred: Sequence[int]) -> _Round:
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        said: list[list[dict[str, str]]] = [
            [{"role": "system", "content": system}] for _ in range(chats)
        ]

        async def turn(chat: int, number: int) -> Answer:
            question = f"Question {chat}.{number}: what does the text say about that?"
            said[chat].append({"role": "user", "content": question})
            answer = await ask(client, server.model, Question(said[chat], _TOKENS, barred))
            said[chat].append({"role": "assistant", "content": answer.text})
            return answer

        async def rest(chat: int) -> list[Answer]:
            return [await turn(chat, number) for number in range(chat == 0, _TURNS)]

        unknown = await turn(0, 0)
        first, *others = await asyncio.gather(*map(rest, range(chats)))
        continued = [*first, *(answer for other in others for answer in other[1:])]
        return _Round(unknown, [other[0] for other in others], continued)


def _chatting(spec: ServerSpec, rounds: Sequence[_Round]) -> Chatting:
    def first(answers: Sequence[Answer]) -> Percentiles:
        return Percentiles.of([answer.first for answer in answers if not answer.fault])

    return Chatting(
        label=spec.label,
        ours=spec.ours,
        unknown=first([one.unknown for one in rounds]),
        shared=first([answer for one in rounds for answer in one.shared]),
        continued=first([answer for one in rounds for answer in one.continued]),
        seconds=tuple(one.seconds for one in rounds),
        faults=sum(bool(answer.fault) for one in rounds for answer in one.answers),
    )
