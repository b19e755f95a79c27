"""Requests that mean no good: what is answered, what leaks, and is a good one still served?"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rbee_bench.attack_bodies import MODEL
from rbee_bench.attacks import ATTACKS, SLOW_BODY
from rbee_bench.filling import fill
from rbee_bench.sse_client import StreamFault, ask, events
from rbee_bench.subject import Progress
from rbee_bench.worker_process import WorkerProcess, started_worker
from rbee_runtime import Artifact

_AT_ONCE = 32
_DAWDLERS = 8
_SLOTS = 4
_CONTEXT = 256
_DAWDLE_SECONDS = 0.5
_GOOD_EVERY = 500
_ANSWER_SECONDS = 30.0
_DOCUMENTED: Final = frozenset({503, 504})


@dataclass(frozen=True, slots=True)
class Hostile:
    """What became of a worker among enemies.

    Attributes:
        requests: Hostile ones, without those whose bodies come a byte at a time, of which there
            are always some.
        statuses: How many were answered how; 0 counts closed connections.
        unexpected: Answers of 5xx that are not documented, by attack.
        silent: Attacks that were not answered, and not closed either, in 30 s.
        good: Good requests that were completed in between.
        bad: What was wrong with others, each a line.
        warm: Resident bytes at most before and among the first tenth of them: all memory that
            good requests can make the worker use has been used before, what the largest of the
            others need comes and goes among these.
        most: Resident bytes at most after that.
    """

    requests: int
    statuses: Mapping[int, int]
    unexpected: Mapping[str, int]
    silent: Mapping[str, int]
    good: int
    bad: tuple[str, ...]
    warm: int
    most: int

    @property
    def growth(self) -> float:
        """Share by which resident memory grew after the first tenth of them."""
        return self.most / self.warm - 1.0

    @property
    def held(self) -> bool:
        """Whether nothing was lost but what may be."""
        return not (self.unexpected or self.silent or self.bad)


def measure_hostile(artifact: Artifact, requests: int, progress: Progress) -> Hostile:
    """Attack a worker, always with the same attacks in the same order.

    Raises:
        StartFault: The worker did not become ready.
    """
    progress("starting", 0, requests)
    slots, context = str(_SLOTS), str(_CONTEXT)
    flags = (
        *("--model", str(artifact.path), "--model-ref", MODEL),
        *("--slots", slots, "--context-length", context),
    )
    with started_worker(*flags) as worker:
        worker.until_ready()
        progress("filling", 0, requests)
        # Memory that comes as it is first used would pass for a leak if that happened by and by.
        asyncio.run(fill(worker.port, artifact.manifest, MODEL, _SLOTS, _CONTEXT))
        return asyncio.run(_Siege(worker, requests, progress).run())


class _Siege:
    def __init__(self, worker: WorkerProcess, requests: int, progress: Progress) -> None:
        self._worker = worker
        self._requests = requests
        self._progress = progress
        self._random = random.Random(0)
        self._statuses: Counter[int] = Counter()
        self._unexpected: Counter[str] = Counter()
        self._silent: Counter[str] = Counter()
        self._good = 0
        self._bad: list[str] = []
        self._begun = 0

    async def run(self) -> Hostile:
        warm, most = self._worker.resident_bytes, 0
        first_tenth = True
        attackers = [asyncio.create_task(self._attacker()) for _ in range(_AT_ONCE)]
        dawdlers = [asyncio.create_task(self._dawdler()) for _ in range(_DAWDLERS)]
        while any(not attacker.done() for attacker in attackers):
            await asyncio.sleep(0.2)
            self._progress("attacks", self._begun, self._requests)
            resident = self._worker.resident_bytes
            if first_tenth:
                warm = max(warm, resident)
                first_tenth = self._begun < self._requests / 10
            else:
                most = max(most, resident)
        most = max(most, self._worker.resident_bytes)
        await asyncio.gather(*attackers)
        for dawdler in dawdlers:
            dawdler.cancel()
        await asyncio.gather(*dawdlers, return_exceptions=True)
        await self._ask_well()
        return Hostile(
            requests=self._begun,
            statuses=dict(sorted(self._statuses.items())),
            unexpected=dict(self._unexpected),
            silent=dict(self._silent),
            good=self._good,
            bad=tuple(self._bad),
            warm=warm,
            most=most,
        )

    async def _attacker(self) -> None:
        names = list(ATTACKS)
        while self._begun < self._requests:
            number, self._begun = self._begun, self._begun + 1
            if number % _GOOD_EVERY == 0:
                await self._ask_well()
            name = names[number % len(names)]
            await self._attack(name, ATTACKS[name](self._random))

    async def _dawdler(self) -> None:
        while True:
            await self._attack("slow body", SLOW_BODY, endless=True)

    async def _attack(self, name: str, sent: bytes, *, endless: bool = False) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._worker.port)
        except OSError:
            self._statuses[0] += 1
            return
        trickle = asyncio.create_task(_trickle(writer)) if endless else None
        try:
            writer.write(sent)
            if name.startswith("left"):
                return
            if name.startswith("half-closed"):
                writer.write_eof()
            async with asyncio.timeout(_ANSWER_SECONDS):
                head = await reader.read(4096)
                status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
                self._statuses[status] += 1
                if status >= 500 and status not in _DOCUMENTED:
                    self._unexpected[f"{name}: {status}"] += 1
        except TimeoutError:
            self._silent[name] += 1
        except OSError:
            self._statuses[0] += 1
        finally:
            if trickle is not None:
                trickle.cancel()
            writer.transport.abort()

    async def _ask_well(self) -> None:
        body: dict[str, object] = {"job_id": "good", "prompt": "Once upon a time", "max_tokens": 2}
        try:
            answer = await ask(self._worker.port, "/v1/inference", body)
            if answer.status != 200 or events(answer.body)[-1]["type"] != "end":
                raise StreamFault(f"status {answer.status}: {answer.body[-100:]!r}")
            self._good += 1
        except (StreamFault, OSError) as fault:
            self._bad.append(f"after {self._begun}: {type(fault).__name__}: {fault}")


async def _trickle(writer: asyncio.StreamWriter) -> None:
    while not writer.transport.is_closing():
        await asyncio.sleep(_DAWDLE_SECONDS)
        writer.write(b" ")
