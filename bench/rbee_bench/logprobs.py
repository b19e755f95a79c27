"""What it costs that tokens come with log probabilities: from the engine, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import queue
import statistics
import time
from dataclasses import dataclass
from typing import Final, Literal

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import interleave
from rbee_bench.sse_client import StreamFault, ask
from rbee_bench.stats import paired_ratio, spread
from rbee_bench.subject import Progress
from rbee_bench.worker_process import started_worker
from rbee_runtime import Artifact, Engine, Request, SamplingParams
from rbee_runtime.events import Event, Failed, Finished

STREAMS: Final = (1, 16)
ALTERNATIVES: Final = 5
_SLOTS: Final = 16
_MODEL: Final = "measured"
_PROMPT: Final = "Once upon a time, in a village by the sea, story number {number} began when"

Place = Literal["engine", "worker"]


@dataclass(frozen=True, slots=True)
class LogprobsRow:
    """One number of streams.

    Attributes:
        place: Who is asked: the engine alone, or a worker, over HTTP.
        streams: How many at once.
        without: Tokens a second of completions that tell of no token, one a round.
        told: Of completions that tell of each token and of the five likeliest, one a round.
    """

    place: Place
    streams: int
    without: tuple[float, ...]
    told: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Share of the rate that is lost, in the middle round."""
        return 1.0 - paired_ratio(self.told, self.without)

    @property
    def spread(self) -> float:
        """Of the rounds' ratios; see :func:`~rbee_bench.stats.spread`."""
        return spread([t / w for t, w in zip(self.told, self.without, strict=True)])

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens a second in the middle round, without and told."""
        return statistics.median(self.without), statistics.median(self.told)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """What was measured.

    Attributes:
        precision: Of the artifact.
        tokens: Of each completion, at most.
        rows: One for each place and number of streams.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    tokens: int
    rows: tuple[LogprobsRow, ...]
    bystanders: float


def measure_logprobs(artifact: Artifact, tokens: int, rounds: int, progress: Progress) -> Logprobs:
    """Complete the same prompts with and without log probabilities, by turns.

    Raises:
        StartFault: The worker did not become ready.
        StreamFault: An answer was not whole.
    """
    turns = 2 * len(STREAMS) * 2 * (rounds + 1)
    done = 0

    def turn(name: str) -> None:
        nonlocal done
        done += 1
        progress(name, done, turns)

    progress("starting", 0, turns)
    flags = ("--model", str(artifact.path), "--model-ref", _MODEL, "--slots", str(_SLOTS))
    with (
        started_worker(*flags) as worker,
        Engine.load(artifact.path, slots=_SLOTS) as engine,
    ):
        worker.until_ready()
        bystanders = Bystanders([worker.process.pid])
        rows = []
        places: tuple[Place, ...] = ("engine", "worker")
        for place in places:
            for streams in STREAMS:

                def rate(asked: int | None, place: Place = place, streams: int = streams) -> float:
                    if place == "engine":
                        return _engine(engine, streams, tokens, asked)
                    return asyncio.run(_worker(worker.port, streams, tokens, asked))

                taken = interleave(
                    {
                        f"{place}, {streams}, without": lambda rate=rate: rate(None),  # type: ignore[misc]
                        f"{place}, {streams}, told": lambda rate=rate: rate(ALTERNATIVES),  # type: ignore[misc]
                    },
                    rounds,
                    turn,
                )
                rows.append(LogprobsRow(place, streams, *taken.values()))
        share = bystanders.share()
    return Logprobs(artifact.manifest.precision, tokens, tuple(rows), share)


def _engine(engine: Engine, streams: int, tokens: int, asked: int | None) -> float:
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    sampling = SamplingParams(temperature=0.0, logprobs=asked)
    began = time.monotonic()
    for number in range(streams):
        prompt = _PROMPT.format(number=number)
        engine.submit(Request(f"{number}", prompt, tokens, sampling), told.put)
    left, count = streams, 0
    while left:
        match told.get():
            case Finished(completion_tokens=done):
                count, left = count + done, left - 1
            case Failed(error=error):
                raise error
    return count / (time.monotonic() - began)


async def _worker(port: int, streams: int, tokens: int, asked: int | None) -> float:
    began = time.monotonic()
    answers = await asyncio.gather(
        *(ask(port, "/v1/completions", _body(n, tokens, asked)) for n in range(streams))
    )
    seconds = max(answer.last for answer in answers) - began
    return sum(_tokens_of(answer.body) for answer in answers) / seconds


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


def _tokens_of(body: bytes) -> int:
    *events, done, rest = body.split(b"\n\n")
    if done != b"data: [DONE]" or rest:
        raise StreamFault("the stream does not end with [DONE]")
    counted = events[-1]
    count: int = json.loads(counted.removeprefix(b"data: "))["usage"]["completion_tokens"]
    return count
