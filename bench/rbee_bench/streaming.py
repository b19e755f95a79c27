"""What it costs that tokens go out over HTTP: the worker beside its own engine, by turns."""

from __future__ import annotations

import asyncio
import queue
import statistics
import time
from dataclasses import dataclass

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import interleave
from rbee_bench.sse_client import StreamFault, ask, events
from rbee_bench.stats import paired_ratio, spread
from rbee_bench.subject import Progress
from rbee_bench.worker_process import started_worker
from rbee_runtime import Artifact, Engine, Request
from rbee_runtime.events import Event, Failed, Finished
from rbee_runtime.request import GREEDY

STREAMS = (1, 16)
_SLOTS = 16
_PROMPT = "Once upon a time, in a village by the sea, story number {number} began when"


@dataclass(frozen=True, slots=True)
class StreamingRow:
    """One number of streams.

    Attributes:
        streams: How many at once.
        engine: Tokens a second of the engine alone, one a round.
        worker: Tokens a second of the worker, as its client sees them, one a round.
    """

    streams: int
    engine: tuple[float, ...]
    worker: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Share of the engine's rate that is lost, in the middle round."""
        return 1.0 - paired_ratio(self.worker, self.engine)

    @property
    def spread(self) -> float:
        """Of the rounds' ratios; see :func:`~rbee_bench.stats.spread`."""
        return spread([w / e for w, e in zip(self.worker, self.engine, strict=True)])

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens a second in the middle round, of the engine and of the worker."""
        return statistics.median(self.engine), statistics.median(self.worker)


@dataclass(frozen=True, slots=True)
class Streaming:
    """What was measured.

    Attributes:
        precision: Of the artifact.
        tokens: Of each completion.
        rows: One for each number of streams.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    tokens: int
    rows: tuple[StreamingRow, ...]
    bystanders: float


def measure_streaming(
    artifact: Artifact, tokens: int, rounds: int, progress: Progress
) -> Streaming:
    """Have engine and worker complete the same prompts, by turns.

    Both hold the model, in processes of their own; whoever does not have the turn sleeps. The
    client reads on the processor that is measured, as there is no other.

    Raises:
        StartFault: The worker did not become ready.
        StreamFault: A stream was not in order.
    """
    turns = len(STREAMS) * 2 * (rounds + 1)
    done = 0

    def turn(name: str) -> None:
        nonlocal done
        done += 1
        progress(name, done, turns)

    progress("starting", 0, turns)
    flags = ("--model", str(artifact.path), "--slots", str(_SLOTS))
    with (
        started_worker(*flags) as worker,
        Engine.load(artifact.path, slots=_SLOTS) as engine,
    ):
        worker.until_ready()
        bystanders = Bystanders([worker.process.pid])
        rows = []
        for streams in STREAMS:
            taken = interleave(
                {
                    f"engine, {streams}": lambda n=streams: _engine(engine, n, tokens),  # type: ignore[misc]
                    f"worker, {streams}": lambda n=streams: asyncio.run(  # type: ignore[misc]
                        _worker(worker.port, n, tokens)
                    ),
                },
                rounds,
                turn,
            )
            alone, served = taken.values()
            rows.append(StreamingRow(streams, alone, served))
        share = bystanders.share()
    return Streaming(artifact.manifest.precision, tokens, tuple(rows), share)


def _engine(engine: Engine, streams: int, tokens: int) -> float:
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    began = time.monotonic()
    for number in range(streams):
        prompt = _PROMPT.format(number=number)
        engine.submit(Request(f"{number}", prompt, tokens, GREEDY), told.put)
    left, count = streams, 0
    while left:
        match told.get():
            case Finished(completion_tokens=done):
                count, left = count + done, left - 1
            case Failed(error=error):
                raise error
    return count / (time.monotonic() - began)


async def _worker(port: int, streams: int, tokens: int) -> float:
    began = time.monotonic()
    answers = await asyncio.gather(
        *(ask(port, "/v1/inference", _body(number, tokens)) for number in range(streams))
    )
    seconds = max(answer.last for answer in answers) - began
    count = 0
    for answer in answers:
        if answer.status != 200:
            raise StreamFault(f"the worker answered {answer.status}")
        count += events(answer.body)[-1].get("items_out", 0)
    return count / seconds


def _body(number: int, tokens: int) -> dict[str, object]:
    prompt = _PROMPT.format(number=number)
    return {"job_id": f"{number}", "prompt": prompt, "max_tokens": tokens, "temperature": 0.0}
