"""From a worker's start to its readiness, and the memory it then holds."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from rbee_bench.bystanders import Bystanders
from rbee_bench.stats import spread
from rbee_bench.subject import Progress
from rbee_bench.worker_process import StartFault, started_worker
from rbee_runtime import Artifact, Engine
from rbee_runtime.backend import host_cache

_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Start:
    """A worker's start, several times over.

    Attributes:
        precision: Of the artifact it serves.
        seconds: From the start of its process to ``/v1/ready`` saying so, one a round.
        weights_bytes: The weights file.
        cache_bytes: The KV cache, as reserved.
        cache_used_bytes: What the completion can have touched of it.
        ready_bytes: Resident memory once ready, the largest of the rounds.
        generated_bytes: Resident memory after a completion of 64 tokens, the largest.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    seconds: tuple[float, ...]
    weights_bytes: int
    cache_bytes: int
    cache_used_bytes: int
    ready_bytes: int
    generated_bytes: int
    bystanders: float

    @property
    def median(self) -> float:
        """Seconds to readiness in the middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """See :func:`~rbee_bench.stats.spread`."""
        return spread(self.seconds)

    @property
    def bound_bytes(self) -> int:
        """What the worker may hold: 1.2 x (weights + cache) + 200 MB."""
        return memory_bound(self.weights_bytes, self.cache_bytes)

    @property
    def used_bound_bytes(self) -> int:
        """The same with the cache that was used in the place of the one reserved."""
        return memory_bound(self.weights_bytes, self.cache_used_bytes)


def memory_bound(weights: int, cache: int) -> int:
    """Return the resident bytes a worker may hold with these."""
    return (weights + cache) * 6 // 5 + 200_000_000


def measure_start(artifact: Artifact, rounds: int, progress: Progress) -> Start:
    """Start and stop a worker once to warm the page cache, then ``rounds`` times.

    Raises:
        StartFault: It did not become ready, or did not answer.
    """
    taken = []
    bystanders = Bystanders()
    for number in range(rounds + 1):
        progress("starts", number, rounds + 1)
        taken.append(start_once(artifact.path))
    others = bystanders.share()
    with Engine.load(artifact.path) as engine:
        cache = engine.memory().cache_reserved
        prompt = len(engine.tokenizer.encode(_PROMPT))
    geometry = host_cache(artifact)
    return Start(
        precision=artifact.manifest.precision,
        seconds=tuple(once.seconds for once in taken[1:]),
        weights_bytes=artifact.weight_bytes,
        cache_bytes=cache,
        cache_used_bytes=(prompt + _TOKENS) * geometry.bytes_per_token,
        ready_bytes=max(once.ready for once in taken),
        generated_bytes=max(once.generated for once in taken),
        bystanders=others,
    )


_PROMPT = "Once upon a time"


@dataclass(frozen=True, slots=True)
class Once:
    """One start.

    Attributes:
        seconds: From the start of its process to ``/v1/ready`` saying so.
        ready: Resident bytes then.
        generated: Resident bytes after a completion of 64 tokens.
    """

    seconds: float
    ready: int
    generated: int


def start_once(artifact: Path, search_path: str = "") -> Once:
    """Start a worker on an artifact, have it complete something, and stop it.

    Args:
        artifact: What it serves.
        search_path: Directories to import from before any other, as for ``PYTHONPATH``.

    Raises:
        StartFault: It did not become ready, or did not answer.
    """
    environment = {"PYTHONPATH": search_path} if search_path else {}
    began = time.perf_counter()
    with started_worker("--model", str(artifact), environment=environment) as worker:
        worker.until_ready()
        seconds = time.perf_counter() - began
        ready = worker.resident_bytes
        with httpx.Client(base_url=worker.url, timeout=30) as client:
            _complete(client)
        return Once(seconds, ready, worker.resident_bytes)


def _complete(client: httpx.Client) -> None:
    body = {"job_id": "bench", "prompt": _PROMPT, "max_tokens": _TOKENS, "temperature": 0.0}
    answer = client.post("/v1/inference", json=body)
    if '"type":"end"' not in answer.text:
        raise StartFault(f"the worker answered {answer.status_code}: {answer.text[:200]}")
