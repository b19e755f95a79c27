"""Many streams at once for a while: is one lost, and what becomes of health and heartbeats?"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rbee_bench.bystanders import Bystanders
from rbee_bench.hive_stand_in import BEAT, Hive
from rbee_bench.sse_client import StreamFault, ask, events
from rbee_bench.subject import Progress
from rbee_bench.worker_process import started_worker
from rbee_runtime import Artifact

BEAT_SECONDS = 1.0
"""Between two heartbeats of the worker under load: its hive asks for one in 30 s."""

_PROBE_SECONDS = 0.05
_CONTEXT = 256
_SHOWN_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Load:
    """What became of a worker under load.

    Attributes:
        precision: Of the artifact.
        streams: Open at any moment; each client asks again as soon as its stream has ended.
        slots: Of the worker: the other streams wait for one, which are told so.
        seconds: For which new streams were opened.
        ended: Streams that came to their end, in order and complete.
        tokens: In all of them.
        faults: What was wrong with others, the first few.
        lost: How many others.
        health: Seconds that ``/health`` took, sorted.
        late: Seconds by which the latest heartbeat was late.
        resident: Bytes the worker held at a quarter of the time, and at the end.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    streams: int
    slots: int
    seconds: float
    ended: int
    tokens: int
    faults: tuple[str, ...]
    lost: int
    health: tuple[float, ...]
    late: float
    resident: tuple[int, int]
    bystanders: float

    @property
    def health_p99(self) -> float:
        """Seconds within which 99 of 100 health checks were answered."""
        return statistics.quantiles(self.health, n=100)[-1]


def measure_load(
    artifact: Artifact, streams: int, slots: int, seconds: float, progress: Progress
) -> Load:
    """Keep streams open on a worker for a while, and look after its hive's interests.

    Raises:
        StartFault: The worker did not become ready.
    """
    progress("starting", 0, round(seconds))
    flags = (
        *("--model", str(artifact.path), "--slots", str(slots), "--max-queue", str(streams)),
        *("--context-length", str(_CONTEXT), "--heartbeat-interval", str(BEAT_SECONDS)),
    )
    with Hive() as hive, started_worker(*flags, "--hive-url", hive.url) as worker:
        worker.until_ready()
        bystanders = Bystanders([worker.process.pid])
        crowd = _Crowd(worker.port, seconds)
        probe = _Probe(worker.port)
        probe.start()
        resident = []

        async def run() -> None:
            clients = [asyncio.create_task(crowd.client(number)) for number in range(streams)]
            began = time.monotonic()
            for share in range(4):
                while time.monotonic() < began + seconds * (share + 1) / 4:
                    await asyncio.sleep(0.5)
                    progress(f"{streams} streams", round(time.monotonic() - began), round(seconds))
                resident.append(worker.resident_bytes)
            await asyncio.gather(*clients)

        asyncio.run(run())
        health = probe.stop()
        share = bystanders.share()
        late = _latest([beat.at for beat in hive.received(BEAT)])
    return Load(
        precision=artifact.manifest.precision,
        streams=streams,
        slots=slots,
        seconds=seconds,
        ended=crowd.ended,
        tokens=crowd.tokens,
        faults=tuple(crowd.faults[:_SHOWN_FAULTS]),
        lost=len(crowd.faults),
        health=tuple(sorted(health)),
        late=late,
        resident=(resident[0], resident[-1]),
        bystanders=share,
    )


def _latest(came: Sequence[float]) -> float:
    gaps = [later - earlier for earlier, later in itertools.pairwise(came)]
    return max(0.0, max(gaps) - BEAT_SECONDS)


class _Crowd:
    """Clients that ask again and again."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._until = time.monotonic() + seconds
        self.ended = 0
        self.tokens = 0
        self.faults: list[str] = []

    async def client(self, number: int) -> None:
        """Ask until the time is over."""
        for turn in itertools.count():
            if time.monotonic() >= self._until:
                return
            tokens = 16 + (number * 7 + turn * 5) % 32
            body: dict[str, object] = {
                "job_id": f"{number}-{turn}",
                "prompt": f"Story number {number}, told {turn} times, begins when",
                "max_tokens": tokens,
                "temperature": 0.8,
            }
            try:
                answer = await ask(self._port, "/v1/inference", body)
                if answer.status != 200:
                    raise StreamFault(f"status {answer.status}: {answer.body[:100]!r}")
                told = events(answer.body)
                if told[0]["job_id"] != body["job_id"] or told[-1]["type"] != "end":
                    raise StreamFault(f"ended with {told[-1]}")
                if told[-1]["stop_reason"] == "MAX_TOKENS" and told[-1]["items_out"] != tokens:
                    raise StreamFault(f"{told[-1]['items_out']} tokens of {tokens}")
            except (StreamFault, OSError) as fault:
                self.faults.append(f"{type(fault).__name__}: {fault}")
                await asyncio.sleep(0.1)
            else:
                self.ended += 1
                self.tokens += told[-1]["items_out"]


class _Probe(threading.Thread):
    """Asks for the worker's health, as a hive does, in a thread that nothing holds up."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._over = threading.Event()
        self._took: list[float] = []

    def run(self) -> None:
        """Ask until told to stop, each time on a connection of its own."""
        while not self._over.wait(_PROBE_SECONDS):
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            connection.request("GET", "/health")
            if connection.getresponse().status != 200:
                self._took.append(float("inf"))
            self._took.append(time.monotonic() - began)
            connection.close()

    def stop(self) -> list[float]:
        """Return the seconds that each answer took."""
        self._over.set()
        self.join()
        return self._took
