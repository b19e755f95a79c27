"""What the engine itself costs, and what requests cost each other."""

from __future__ import annotations

import queue
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from unittest.mock import patch

import numpy as np

from rbee_bench.bystanders import Bystanders
from rbee_bench.step_by_step import STEP_BY_STEP
from rbee_bench.subject import Progress
from rbee_runtime import (
    Artifact,
    Engine,
    Event,
    Failed,
    Finished,
    Piece,
    Request,
    SamplingParams,
    Tokenizer,
)
from rbee_runtime.backend import open_backend
from rbee_runtime.backend.session import Binding
from rbee_runtime.completion import complete_all

SHARED, ENTERING, STREAMS = 1000, 2000, 4
_OWN = 16
_BATCHES = (1, 16)
_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Gaps:
    """Seconds between the tokens of running streams.

    Attributes:
        median: Half are shorter.
        p99: 99 in a hundred are.
    """

    median: float
    p99: float


@dataclass(frozen=True, slots=True)
class Serving:
    """What was measured on one artifact, each figure the median of the rounds.

    Attributes:
        precision: Of the artifact.
        first_token: Seconds to the first token of a prompt that nobody sent before.
        known_first_token: Of one that shares all but its last tokens with it.
        quiet: Gaps of running streams among themselves.
        entering: The same streams' gaps while a long prompt enters.
        overhead: Share of a step, 0.0 to 1.0, spent outside the model, by sequences at a time.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    first_token: float
    known_first_token: float
    quiet: Gaps
    entering: Gaps
    overhead: dict[int, float]
    bystanders: float


def measure_serving(
    artifact: Artifact, ids: Sequence[int], rounds: int, progress: Progress
) -> Serving:
    """Measure each figure ``rounds`` times."""
    bystanders = Bystanders()
    firsts, seconds, quiets, entries = [], [], [], []
    overheads: dict[int, list[float]] = {batch: [] for batch in _BATCHES}
    total = rounds * (2 + len(_BATCHES))
    with Engine.load(artifact.path, slots=STREAMS + 1, **STEP_BY_STEP) as engine:
        for number in range(rounds):
            progress("shared beginning", number * 2, total)
            first, second = _shared_beginning(engine, ids, number)
            firsts.append(first)
            seconds.append(second)
            progress("entering prompt", number * 2 + 1, total)
            quiet, entry = _entering_prompt(engine, ids, number)
            quiets.append(quiet)
            entries.append(entry)
    for place, batch in enumerate(_BATCHES):
        with _TimedEngine(artifact, batch) as timed:
            for number in range(rounds):
                progress(f"overhead at {batch}", rounds * (2 + place) + number, total)
                overheads[batch].append(timed.overhead(ids))
    return Serving(
        precision=artifact.manifest.precision,
        first_token=statistics.median(firsts),
        known_first_token=statistics.median(seconds),
        quiet=_gaps(quiets),
        entering=_gaps(entries),
        overhead={batch: statistics.median(shares) for batch, shares in overheads.items()},
        bystanders=bystanders.share(),
    )


def _shared_beginning(engine: Engine, ids: Sequence[int], number: int) -> tuple[float, float]:
    """Return the seconds to the first token of two prompts that begin alike."""
    shared = _rotated(ids, SHARED, number)
    times = []
    for row in range(2):
        prompt = [*shared, *islice(cycle(ids), 50 * row, 50 * row + _OWN)]
        start = time.perf_counter()
        for event in engine.stream(_endless(engine, f"shared-{row}", prompt, 2)):
            if isinstance(event, Piece):
                times.append(time.perf_counter() - start)
                break
    return times[0], times[1]


def _entering_prompt(
    engine: Engine, ids: Sequence[int], number: int
) -> tuple[list[float], list[float]]:
    """Return gaps of running streams before a long prompt comes, and until it is in."""
    told: queue.SimpleQueue[tuple[str, float, Event]] = queue.SimpleQueue()

    def submit(name: str, prompt: Sequence[int], tokens: int) -> None:
        request = _endless(engine, name, prompt, tokens)
        engine.submit(request, lambda event: told.put((name, time.perf_counter(), event)))

    for row in range(STREAMS):
        submit(f"stream-{row}", _rotated(ids, 32, 7 * row + number), 2000)
    latest: dict[str, float] = {}
    quiet: list[float] = []
    entry: list[float] = []
    gaps, asked, ended = quiet, False, 0
    while ended <= STREAMS:
        name, now, event = told.get()
        match event:
            case Piece() if name == "entering":
                for row in range(STREAMS):
                    engine.cancel(f"stream-{row}")
            case Piece():
                if name in latest:
                    gaps.append(now - latest[name])
                latest[name] = now
                if not asked and len(quiet) >= 40 * STREAMS:
                    submit("entering", _rotated(ids, ENTERING, 13 + number), 1)
                    gaps, asked = entry, True
            case Finished():
                ended += 1
            case Failed(error):
                raise error
            case _:
                pass
    return quiet[8 * STREAMS :], entry


def _rotated(ids: Sequence[int], count: int, by: int) -> list[int]:
    """Return ids that no other number shares a beginning with."""
    return [ids[(17 * by + 3) % len(ids)], *islice(cycle(ids), 31 * by, 31 * by + count - 1)]


def _endless(engine: Engine, name: str, prompt: Sequence[int], tokens: int) -> Request:
    bias = dict.fromkeys(engine.manifest.eos_token_ids, -100.0)
    return Request(name, prompt, tokens, SamplingParams(temperature=0.0, logit_bias=bias))


def _gaps(rounds: Sequence[Sequence[float]]) -> Gaps:
    medians, tails = zip(*(np.quantile(gaps, (0.5, 0.99)) for gaps in rounds), strict=True)
    return Gaps(float(np.median(medians)), float(np.median(tails)))


class _TimedEngine:
    """An engine that notes when the model runs: when ONNX Runtime's session does, no more."""

    def __init__(self, artifact: Artifact, batch: int) -> None:
        manifest = artifact.manifest
        tokenizer = Tokenizer.open(
            artifact.file("tokenizer"), None, manifest.bos_token_id, manifest.eos_token_ids[0]
        )
        backend = open_backend(artifact, slots=batch, context=512)
        self._engine = Engine(artifact, tokenizer, backend, **STEP_BY_STEP)
        self._batch = batch
        self._spans: list[tuple[float, float]] = []
        self._patch = patch.object(Binding, "run", self._timed(Binding.run))

    def overhead(self, ids: Sequence[int]) -> float:
        """Return the share of a batch's decode that is not the model's."""
        bias = dict.fromkeys(self._engine.manifest.eos_token_ids, -100.0)
        sampling = SamplingParams(temperature=0.8, top_p=0.95, seed=1, logit_bias=bias)
        requests = [
            Request(f"{row}", _rotated(ids, 32, row), _TOKENS, sampling)
            for row in range(self._batch)
        ]
        self._spans.clear()
        complete_all(self._engine, requests, lambda: None)
        model = sum(end - start for start, end in self._spans[:-1])
        return 1.0 - model / (self._spans[-1][0] - self._spans[0][0])

    def _timed(self, run: Callable[[Binding, int], None]) -> Callable[[Binding, int], None]:
        """Return what also notes the steps in which all rows decode."""

        def timed(binding: Binding, tokens: int) -> None:
            start = time.perf_counter()
            run(binding, tokens)
            if tokens == self._batch:
                self._spans.append((start, time.perf_counter()))

        return timed

    def __enter__(self) -> _TimedEngine:
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()
        self._engine.close()
