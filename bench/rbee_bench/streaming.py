"""What it costs that tokens go out over HTTP: the worker beside its own engine, by turns."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import counted
from rbee_bench.overhead import SLOTS, STREAMS, OverheadRow, completion_rate, measure_overhead
from rbee_bench.sse_client import StreamFault, ask, events
from rbee_bench.subject import Progress
from rbee_bench.worker_process import started_worker
from rbee_runtime import Artifact, Engine

_PROMPT = "Once upon a time, in a village by the sea, story number {number} began when"


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
    rows: tuple[OverheadRow, ...]
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
    turn = counted(progress, turns)
    progress("starting", 0, turns)
    flags = ("--model", str(artifact.path), "--slots", str(SLOTS))
    with (
        started_worker(*flags) as worker,
        Engine.load(artifact.path, slots=SLOTS) as engine,
    ):
        worker.until_ready()
        bystanders = Bystanders([worker.process.pid])

        def alone(streams: int) -> float:
            prompts = [_PROMPT.format(number=number) for number in range(streams)]
            return completion_rate(engine, prompts, tokens)

        def served(streams: int) -> float:
            return asyncio.run(_worker(worker.port, streams, tokens))

        rows = measure_overhead(("engine", alone), ("worker", served), rounds, turn)
        share = bystanders.share()
    return Streaming(artifact.manifest.precision, tokens, rows, share)


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
