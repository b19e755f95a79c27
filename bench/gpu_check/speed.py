"""How fast the engine decodes and reads prompts on the GPU."""

from __future__ import annotations

import os
import queue
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpu_check import place
from gpu_check.child import Report, Skipped
from gpu_check.shapes import BATCHES, CAPACITY, CONTEXT, LENGTH, PREFILLS, SHAPES, STEPS, config
from gpu_check.tiled_artifact import write_artifact
from rbee_bench.peers.onnx_reads import matrix_operations, weight_bytes
from rbee_bench.wrapped_backend import WrappedBackend
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, open_backend
from rbee_runtime.completion import complete_all
from rbee_runtime.engine import Engine
from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Event, Failed, Finished
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import PREFILL_CHUNK, Step
from rbee_runtime.tokenizer import Tokenizer

_ROOM = 1.1
"""What a model takes of the GPU, in sizes of its weights: activations come to little beside."""

_PATIENCE = 40.0


def by_flash(report: Report, model: str, precision: Any) -> None:
    """Time decoding with the attention that ONNX Runtime takes for prompts.

    What it takes for decoding is made for long contexts; at short ones this one has fewer kernels.
    """
    os.environ["ORT_ENABLE_XQA"] = "0"
    measure(report, model, precision, by="ours, by Flash", prefills=())


def measure(
    report: Report,
    model: str,
    precision: Any,
    *,
    by: str = "ours",
    prefills: Sequence[int] | None = None,
) -> None:
    """Time a model through the engine, as a worker would serve it, greedily.

    What decodes is timed from the start of one step of all sequences to the start of the next, with
    whatever the engine does between.

    Args:
        report: Where to say it.
        model: Which.
        precision: At what.
        by: Who it is, in the tables.
        prefills: How many prompts to read; as many as is usual if ``None``.
    """
    began = time.perf_counter()
    directory = report.directory / "artifact"
    write_artifact(config(model), precision, directory)
    artifact = Artifact.open(directory)
    reads = _Reads(artifact, model)
    report.row(what="artifact written", seconds=time.perf_counter() - began)
    began = time.perf_counter()
    slots = _slots(artifact, reads)
    each = artifact.manifest.cache.slot_bytes(CAPACITY, PREFILL_CHUNK)
    # No room to keep what has been read: every prompt is read whole.
    opened = open_backend(
        artifact, "cuda", place.DEVICE, slots=slots, context=CAPACITY, budget=slots * each
    )
    timed = TimedBackend(opened)
    tokenizer = Tokenizer.open(artifact.file("tokenizer"), None, None, None)
    alike = {"model": model, "precision": precision, "by": by}
    with Engine(artifact, tokenizer, timed) as engine:
        _read(engine, 1, 2)
        report.row(what="opened and warmed up", seconds=time.perf_counter() - began)
        for batch in (batch for batch in BATCHES if batch <= slots):
            seconds = _decode(engine, timed, batch)
            cache = reads.position * (CONTEXT + STEPS // 2)
            report.row(
                **alike,
                what="decode",
                batch=batch,
                rate=batch / seconds,
                **reads.of_step(batch, cache, reads.operations),
            )
        for batch in PREFILLS if prefills is None else prefills:
            seconds = _read(engine, batch, LENGTH)
            report.row(
                **alike,
                what=f"prefill of {LENGTH}",
                batch=batch,
                rate=batch * LENGTH / seconds,
                **reads.of_step(PREFILL_CHUNK, 0, reads.prompt_operations),
            )


class TimedBackend(WrappedBackend):
    """Notes when steps of so many rows begin.

    Attributes:
        enough: Set once so many have been noted.
        all_there: Steps wait until it is set: no sequence is to end before the last one has come.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.enough = threading.Event()
        self.all_there = threading.Event()
        self.all_there.set()
        self._is_warm = False
        self._rows = 0
        self._starts: list[float | None] = []

    def watch(self, rows: int) -> None:
        """Forget what was noted, and note steps that decode so many rows."""
        self.enough.clear()
        self._starts = []
        self._rows = rows

    def seconds(self) -> float:
        """Return the median time from one such step to the next, with nothing in between.

        Raises:
            RuntimeError: There were none.
        """
        starts = list(self._starts)
        gaps = [b - a for a, b in pairwise(starts) if a is not None and b is not None]
        if not gaps:
            raise RuntimeError(f"no two steps of {self._rows} rows followed each other")
        # The first ones are those that a clock rises with.
        return statistics.median(gaps[len(gaps) // 4 :])

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        """Run a step and draw."""
        if not self._is_warm:
            # Here, on the engine's thread: captured graphs belong to the one that captured them.
            self._backend.warm_up()
            self._is_warm = True
        self.all_there.wait()
        decodes = len(step.rows) == self._rows and len(step.rows[0].tokens) == 1
        self._starts.append(time.perf_counter() if decodes else None)
        if decodes and sum(start is not None for start in self._starts[-STEPS:]) == STEPS:
            self.enough.set()
        return self._backend.advance(step, samplers)


def _decode(engine: Engine, timed: TimedBackend, batch: int) -> float:
    """Return the seconds of a step in which so many sequences decode."""
    ends: queue.SimpleQueue[Event] = queue.SimpleQueue()
    timed.watch(batch)

    def sink(event: Event) -> None:
        if isinstance(event, Finished | Failed):
            timed.enough.set()  # nothing more will come
            ends.put(event)  # last: whoever has all of these watches anew

    requests = [
        Request(f"{batch}-{number}", prompt, CAPACITY - CONTEXT, GREEDY)
        for number, prompt in enumerate(_prompts(engine, batch, CONTEXT))
    ]
    timed.all_there.clear()
    for request in requests:
        engine.submit(request, sink)
    timed.all_there.set()
    timed.enough.wait(_PATIENCE)
    for request in requests:
        engine.cancel(request.request_id)
    for _ in requests:
        end = ends.get(timeout=_PATIENCE)
        if isinstance(end, Failed):
            fault: RuntimeFault = end.error
            raise fault
    return timed.seconds()


def _read(engine: Engine, batch: int, length: int) -> float:
    """Return the seconds from so many prompts' arrival to the first token of the last."""
    requests = [
        Request(f"prompt-{number}", prompt, 1, GREEDY)
        for number, prompt in enumerate(_prompts(engine, batch, length))
    ]
    began = time.perf_counter()
    complete_all(engine, requests, lambda: None)
    return time.perf_counter() - began


def _prompts(engine: Engine, batch: int, length: int) -> list[list[int]]:
    vocab = engine.manifest.shapes.vocab
    prompts: list[list[int]] = (
        np.random.default_rng(length).integers(1, vocab, (batch, length)).tolist()
    )
    return prompts


def _slots(artifact: Artifact, reads: _Reads) -> int:
    """Return how many sequences fit beside the weights, of those that are wanted."""
    free, _ = place.library().memory()
    each = artifact.manifest.cache.slot_bytes(CAPACITY, PREFILL_CHUNK)
    left = free - _ROOM * reads.held
    fit = [batch for batch in BATCHES if batch * each <= left]
    if not fit:
        raise Skipped(
            f"the weights take {reads.held / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the GPU's "
            "memory are free"
        )
    return fit[-1]


class _Reads:
    """What a token reads and computes.

    Attributes:
        held: Bytes of the weights on the GPU.
        position: Bytes of the cache for each position that is attended to.
        operations: Two for each weight of a matrix.
        prompt_operations: The same where a chunk has its logits computed once.
    """

    def __init__(self, artifact: Artifact, model: str) -> None:
        graph: Path = artifact.file("graph")
        shape = SHAPES[model]
        self._weights = weight_bytes(graph)
        self.held = self._weights + 2 * shape.vocab * shape.hidden
        self.position = artifact.manifest.cache.bytes_per_token
        self.operations = matrix_operations(graph)
        head = 2 * shape.vocab * shape.hidden
        self.prompt_operations = self.operations - head + head // PREFILL_CHUNK

    def of_step(self, size: int, cache: int, operations: int) -> dict[str, Any]:
        """Return it as :mod:`gpu_check.rates` reads it, for a step of so many rows or tokens."""
        return {
            "step": size,
            "weights": self._weights,
            "cache": cache,
            "operations": operations,
        }
