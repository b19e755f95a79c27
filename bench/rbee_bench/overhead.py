"""What something costs completions: their rate without it and with it, by turns."""

from __future__ import annotations

import asyncio
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from rbee_bench.interleave import interleave
from rbee_bench.sse_client import Answer, ask
from rbee_bench.stats import paired_ratio, spread
from rbee_runtime import Engine, JsonSchema, Request, SamplingParams
from rbee_runtime.events import Event, Failed, Finished
from rbee_runtime.request import GREEDY

STREAMS: Final = (1, 16)
"""How many completions are timed at once."""

SLOTS: Final = 16

Rate = Callable[[int], float]
"""Completes for so many streams at once and returns the tokens a second."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Completions without something and with it, by turns.

    Attributes:
        without: Tokens a second without it, one a round.
        under: Tokens a second with it, one a round.
    """

    without: tuple[float, ...]
    under: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as fast it is with it, in the middle round."""
        return paired_ratio(self.under, self.without)

    @property
    def spread(self) -> float:
        """Of the rounds' ratios; see :func:`~rbee_bench.stats.spread`."""
        return spread([u / w for u, w in zip(self.under, self.without, strict=True)])

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens a second in the middle round, without it and with it."""
        return statistics.median(self.without), statistics.median(self.under)


@dataclass(frozen=True, slots=True)
class OverheadRow(Paired):
    """One number of streams.

    Attributes:
        streams: How many at once.
    """

    streams: int

    @property
    def cost(self) -> float:
        """Share of the rate that is lost, in the middle round."""
        return 1.0 - self.ratio


def measure_overhead(
    without: tuple[str, Rate],
    under: tuple[str, Rate],
    rounds: int,
    turn: Callable[[str], None],
) -> tuple[OverheadRow, ...]:
    """Time both for every number of :data:`STREAMS`, by turns.

    Args:
        without: What it is called without, and what completes.
        under: The same, with it.
        rounds: Turns of each that count; one more goes before.
        turn: Called after each with its name.
    """
    rows = []
    for streams in STREAMS:
        turns = {f"{name}, {streams}": partial(rate, streams) for name, rate in (without, under)}
        rates_without, rates_under = interleave(turns, rounds, turn).values()
        rows.append(OverheadRow(rates_without, rates_under, streams))
    return tuple(rows)


def completion_rate(
    engine: Engine,
    prompts: Sequence[str],
    tokens: int,
    *,
    held_to: JsonSchema | None = None,
    sampling: SamplingParams = GREEDY,
) -> float:
    """Complete prompts at once and return the tokens a second of them together."""
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    began = time.monotonic()
    for number, prompt in enumerate(prompts):
        request = Request(f"{number}", prompt, tokens, sampling, constraint=held_to)
        engine.submit(request, told.put)
    left, count = len(prompts), 0
    while left:
        match told.get():
            case Finished(completion_tokens=done):
                count, left = count + done, left - 1
            case Failed(error=error):
                raise error
    return count / (time.monotonic() - began)


async def served_rate(
    port: int, route: str, bodies: Sequence[dict[str, object]], tokens_of: Callable[[Answer], int]
) -> float:
    """Ask a worker everything at once and return the tokens a second of all answers together.

    Raises:
        StreamFault: An answer was not whole.
    """
    began = time.monotonic()
    answers = await asyncio.gather(*(ask(port, route, body) for body in bodies))
    seconds = max(answer.last for answer in answers) - began
    return sum(map(tokens_of, answers)) / seconds
