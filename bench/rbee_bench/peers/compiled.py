"""Our own: an artifact on the runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, TypedDict

from rbee_bench.peers.onnx_reads import matrix_operations, weight_bytes
from rbee_bench.peers.peer import (
    Arithmetic,
    Logits,
    Reads,
    Spec,
    Timing,
    complete_steps,
    score_steps,
)
from rbee_bench.step_by_step import STEP_BY_STEP
from rbee_runtime import GREEDY, Artifact, Engine, Finished, Request, SamplingParams
from rbee_runtime.backend import Backend, host_cache, open_backend
from rbee_runtime.completion import complete_all
from rbee_runtime.step import PREFILL_CHUNK, Step

if TYPE_CHECKING:
    from rbee_runtime.backend import CacheType


class _CacheType(TypedDict, total=False):
    cache_type: CacheType


class CompiledPeer:
    """Times through the engine, as a worker would; completes and scores below it, on the backend.

    The engine gives text, not tokens; what is timed never ends before its time.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self.version = f"onnx-worker-rbee {version('onnx-worker-rbee')}"
        self._spec = spec
        self._artifact = Artifact.open(spec.model)

    @property
    def _cache(self) -> _CacheType:
        """What is said of the cache. The gate measures revisions, too, that have no choice."""
        chosen = self._spec.cache_type
        return {} if chosen is None else {"cache_type": chosen}

    @cached_property
    def _engine(self) -> Engine:
        # Nothing is to be known from the round before: no room to keep it.
        geometry = host_cache(self._artifact, **self._cache)
        slots, context = self._spec.sequences, self._spec.capacity or None
        longest = context or self._artifact.manifest.shapes.context_length
        budget = slots * geometry.slot_bytes(longest, PREFILL_CHUNK)
        return Engine.load(
            self._artifact.path,
            slots=slots,
            context_length=context,
            memory_budget=budget,
            **self._cache,
            **STEP_BY_STEP,
        )

    @cached_property
    def _stepper(self) -> _BackendStepper:
        return _BackendStepper(open_backend(self._artifact, slots=1, **self._cache))

    @cached_property
    def _endless(self) -> SamplingParams:
        """Greedy, but for an end of text: other engines are told to go on after one."""
        ends = dict.fromkeys(self._artifact.manifest.eos_token_ids, -100.0)
        return SamplingParams(temperature=0.0, logit_bias=ends)

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        *_, finished = self._engine.stream(Request("bench", prompt, tokens, self._endless))
        assert isinstance(finished, Finished)  # the last event of a stream that raised nothing
        return Timing(finished.completion_tokens - 1, finished.decode_seconds)

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        *_, finished = self._engine.stream(Request("bench", prompt, 1, GREEDY))
        assert isinstance(finished, Finished)
        return Timing(len(prompt) - finished.reused_tokens, finished.prefill_seconds)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        requests = [Request(f"{n}", p, tokens, self._endless) for n, p in enumerate(prompts)]
        start = time.perf_counter()
        completions = complete_all(self._engine, requests, lambda: None)
        seconds = time.perf_counter() - start
        return Timing(sum(one.finished.completion_tokens for one in completions), seconds)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return complete_steps(self._stepper, prompt, tokens)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return score_steps(self._stepper, ids)

    def reads(self) -> Reads:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        position = host_cache(self._artifact, **self._cache).bytes_per_token
        graph = self._artifact.file("graph")
        arithmetic: Arithmetic = "fp32" if self._artifact.manifest.precision == "fp32" else "int8"
        return Reads(weight_bytes(graph), position, matrix_operations(graph), arithmetic)


class _BackendStepper:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._past = 0

    def begin(self, prompt: Sequence[int]) -> Logits:
        self._past = 0
        return self._run(prompt)

    def step(self, token: int) -> Logits:
        return self._run([token])

    def _run(self, tokens: Sequence[int]) -> Logits:
        (logits,) = self._backend.run(Step.of(0, self._past, tokens))
        self._past += len(tokens)
        row: Logits = logits
        return row
