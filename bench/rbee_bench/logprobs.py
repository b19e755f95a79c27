"""What it costs that tokens come with log probabilities: from the engine, and over HTTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

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
from rbee_bench.sse_client import Answer, StreamFault
from rbee_bench.step_by_step import STEP_BY_STEP, STEP_BY_STEP_FLAGS
from rbee_bench.subject import Progress
from rbee_bench.worker_process import started_worker
from rbee_runtime import Artifact, Engine
from rbee_runtime.request import GREEDY

ALTERNATIVES: Final = 5
"""Tokens that are told of beside each that was drawn."""

_MODEL: Final = "measured"
_PROMPT: Final = "Once upon a time, in a village by the sea, story number {number} began when"


@dataclass(frozen=True, slots=True)
class Logprobs:
    """What was measured: without log probabilities, and with those of the likeliest tokens.

    Attributes:
        precision: Of the artifact.
        tokens: Of each completion, at most.
        engine: Of the engine alone, for each number of streams.
        worker: Of a worker, over HTTP, alike.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    tokens: int
    engine: tuple[OverheadRow, ...]
    worker: tuple[OverheadRow, ...]
    bystanders: float


def measure_logprobs(artifact: Artifact, tokens: int, rounds: int, progress: Progress) -> Logprobs:
    """Complete the same prompts with and without log probabilities, by turns.

    Raises:
        StartFault: The worker did not become ready.
        StreamFault: An answer was not whole.
    """
    turns = 2 * len(STREAMS) * 2 * (rounds + 1)
    turn = counted(progress, turns)
    progress("starting", 0, turns)
    flags = ("--model", str(artifact.path), "--model-ref", _MODEL, "--slots", str(SLOTS))
    with (
        started_worker(*flags, *STEP_BY_STEP_FLAGS) as worker,
        Engine.load(artifact.path, slots=SLOTS, **STEP_BY_STEP) as engine,
    ):
        worker.until_ready()
        bystanders = Bystanders([worker.process.pid])

        def alone(asked: int | None, streams: int) -> float:
            prompts = [_PROMPT.format(number=number) for number in range(streams)]
            sampling = replace(GREEDY, logprobs=asked)
            return completion_rate(engine, prompts, tokens, sampling=sampling)

        def served(asked: int | None, streams: int) -> float:
            bodies = [_body(number, tokens, asked) for number in range(streams)]
            return asyncio.run(served_rate(worker.port, "/v1/completions", bodies, _tokens_of))

        of_engine, of_worker = (
            measure_overhead(
                (f"{place}, without", partial(rate, None)),
                (f"{place}, told", partial(rate, ALTERNATIVES)),
                rounds,
                turn,
            )
            for place, rate in (("engine", alone), ("worker", served))
        )
        share = bystanders.share()
    return Logprobs(artifact.manifest.precision, tokens, of_engine, of_worker, share)


def _body(number: int, tokens: int, asked: int | None) -> dict[str, object]:
    return {
        "model": _MODEL,
        "prompt": _PROMPT.format(number=number),
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": asked,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _tokens_of(answer: Answer) -> int:
    *events, done, rest = answer.body.split(b"\n\n")
    if done != b"data: [DONE]" or rest:
        raise StreamFault("the stream does not end with [DONE]")
    counted = events[-1]
    count: int = json.loads(counted.removeprefix(b"data: "))["usage"]["completion_tokens"]
    return count
