"""What it costs that completions are held to a schema, and that strangers write the schemas."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import counted
from rbee_bench.overhead import SLOTS, STREAMS, OverheadRow, completion_rate, measure_overhead
from rbee_bench.step_by_step import STEP_BY_STEP
from rbee_bench.subject import Progress
from rbee_runtime import Artifact, Engine, JsonSchema, Request, RuntimeFault
from rbee_runtime.events import Piece
from rbee_runtime.request import GREEDY

_PROMPT: Final = "A list of the people in village number {number}, as JSON:\n"
_PEOPLE: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "trade": {"enum": ["baker", "beekeeper", "smith", "weaver"]},
            "friends": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        },
        "required": ["name", "age", "trade", "friends"],
        "additionalProperties": False,
    },
    "minItems": 1000,
}
"""More than any completion here holds: all of them have the same number of tokens."""


@dataclass(frozen=True, slots=True)
class Structured:
    """What was measured.

    Attributes:
        precision: Of the artifact.
        tokens: Of each completion.
        rows: One for each number of streams.
        first: Seconds by which the first schema of all came later than the same one again.
        again: Seconds from submission to the first token of the same one again.
        memory: Bytes more of the process after the first.
        alone: Seconds between the pieces of a free stream that has the engine for itself.
        beside: Of one beside as many others as have requests held to nothing.
        attacked: Of one beside as many others as ask for the costliest schemas that are let in.
        asked: How many of these there were.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    tokens: int
    rows: tuple[OverheadRow, ...]
    first: float
    again: float
    memory: int
    alone: tuple[float, ...]
    beside: tuple[float, ...]
    attacked: tuple[float, ...]
    asked: int
    bystanders: float


def measure_structured(
    artifact: Artifact, tokens: int, rounds: int, progress: Progress
) -> Structured:
    """Complete prompts held to a schema and held to nothing, by turns, then under attack."""
    turns = len(STREAMS) * 2 * (rounds + 1) + 3
    turn = counted(progress, turns)
    progress("starting", 0, turns)
    with Engine.load(artifact.path, slots=SLOTS, **STEP_BY_STEP) as engine:
        bystanders = Bystanders([])

        def free(streams: int) -> float:
            return completion_rate(engine, _prompts(streams), tokens)

        def held(streams: int) -> float:
            return completion_rate(engine, _prompts(streams), tokens, held_to=JsonSchema(_PEOPLE))

        free(1)
        before = engine.memory().total
        first = _first_token(engine)
        memory = engine.memory().total - before
        again = statistics.median(_first_token(engine) for _ in range(5))
        rows = measure_overhead(("free", free), ("held", held), rounds, turn)
        alone = _gaps(engine, "alone")
        turn("alone")
        with _Others(engine, [None]):
            beside = _gaps(engine, "beside")
        turn("beside others")
        with _Others(engine, [JsonSchema(schema) for schema in _hostile()]) as attack:
            attacked = _gaps(engine, "attacked")
        turn("attacked")
        share = bystanders.share()
    return Structured(
        artifact.manifest.precision,
        tokens,
        rows,
        first - again,
        again,
        memory,
        alone,
        beside,
        attacked,
        attack.asked,
        share,
    )


def _prompts(count: int) -> list[str]:
    return [_PROMPT.format(number=number) for number in range(count)]


def _first_token(engine: Engine) -> float:
    began = time.monotonic()
    prompt = _PROMPT.format(number=0)
    next(engine.generate(prompt, max_tokens=1, constraint=JsonSchema(_PEOPLE)), None)
    return time.monotonic() - began


def _gaps(engine: Engine, name: str) -> tuple[float, ...]:
    """Return the seconds between the pieces of a free stream."""
    times = [
        time.monotonic()
        for event in engine.stream(Request(name, _PROMPT.format(number=99), 400, GREEDY))
        if isinstance(event, Piece)
    ]
    return tuple(after - before for before, after in itertools.pairwise(times))


class _Others:
    """Threads that ask for short completions, one after the other, for as long as it is used.

    Attributes:
        asked: How many they asked for.
    """

    def __init__(
        self, engine: Engine, held_to: Sequence[JsonSchema | None], threads: int = 4
    ) -> None:
        self.asked = 0
        self._engine = engine
        self._held_to = held_to
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            number += 1
            held_to = self._held_to[number % len(self._held_to)]
            # Refused, or given up: what is measured is how the others fare.
            with suppress(RuntimeFault):
                self._engine.complete(["x"], max_tokens=40, constraint=held_to)
            self.asked += 1


def _hostile() -> list[dict[str, Any]]:
    """Return schemas just within the limits, each of which takes what it can of one thing."""
    nested = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/nested"}}] * 60}
    optional = {f"p{number}": {"type": "string"} for number in range(990)}
    alike = [
        {"type": "object", "properties": {"key": {"type": "string"}, f"{n}": {"type": "integer"}}}
        for n in range(60)
    ]
    return [
        {"$ref": "#/$defs/nested", "$defs": {"nested": nested}},
        {"type": "object", "properties": optional, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": optional, "required": list(optional)},
        {"const": "hello world " * 340},
        {"type": "string", "pattern": "^(ab{69}){69}$"},
        {"type": "string", "pattern": "^[^c]*a[^c]{200}$"},
        {"type": "array", "items": {"anyOf": alike}, "minItems": 9},
        {"type": "integer", "multipleOf": 999999937},
    ]
