"""What it costs that tokens go out over HTTP: the worker beside its own engine, by turns."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import counted
from rbee_bench.overhead import (
    SLOTS,
    STREAMS,
    OverheadRow,
    completion_rate,
    measure_overhead,
    served_rate,
)
from rbee_bench.sse_client import Answer, StreamFault, events
from rbee_bench.step_by_step import STEP_BY_STEP, STEP_BY_STEP_FLAGS
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
        started_worker(*flags, *STEP_BY_STEP_FLAGS) as worker,
        Engine.load(artifact.path, slots=SLOTS, **STEP_BY_STEP) as engine,
    ):
        worker.until_ready()
        bystanders = Bystanders([worker.process.pid])

        def alone(streams: int) -> float:
            prompts = [_PROMPT.format(number=number) for number in range(streams)]
            return completion_rate(engine, prompts, tokens)

        def served(streams: int) -> float:
            bodies = [_body(number, tokens) for number in range(streams)]
            return asyncio.run(served_rate(worker.port, "/v1/inference", bodies, _tokens_of))

        rows = measure_overhead(("engine", alone), ("worker", served), rounds, turn)
        share = bystanders.share()
    return Streaming(artifact.manifest.precision, tokens, rows, share)


def _tokens_of(answer: Answer) -> int:
    if answer.status != 200:
        raise StreamFault(f"the worker answered {answer.status}")
    count: int = events(answer.body)[-1].get("items_out", 0)
    return count


def _body(number: int, tokens: int) -> dict[str, object]:
    prompt = _PROMPT.format(number=number)
    return {"job_id": f"{number}", "prompt": prompt, "max_tokens": tokens, "temperature": 0.0}
