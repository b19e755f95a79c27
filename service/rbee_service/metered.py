"""A language model's backend whose every request is counted and timed, whoever reads its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import Metric

from rbee_runtime.errors import RuntimeFault
from rbee_runtime.events import Event, Failed, Finished, Piece, Started
from rbee_runtime.request import Request
from rbee_service.backend import BackendStatus, InferenceBackend, MemoryUse
from rbee_service.engine_loader import CacheMemory
from rbee_service.faults import failure
from rbee_service.metrics import Metrics, gauge


class MeteredBackend:
    """Passes everything on; times are taken where the backend tells of its events.

    A slow reader is therefore not in them.

    Args:
        backend: Does the work.
        metrics: Where it is counted.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        backend: InferenceBackend[Request, Event],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._clock = clock

    def submit(self, request: Request, sink: Callable[[Event], None]) -> None:
        """See :meth:`InferenceBackend.submit`."""
        meter = _Meter(self._metrics, self._clock)

        def metered(event: Event) -> None:
            # Counted first, or it would be missing from what a client reads right after its end.
            try:
                meter.note(event)
            except Exception:
                # A client must read its events even where they cannot be counted.
                structlog.get_logger().exception("An event could not be counted")
            sink(event)

        try:
            self._backend.submit(request, metered)
        except RuntimeFault:
            self._metrics.inferences.labels("REFUSED").inc()
            raise

    def cancel(self, request_id: str) -> bool:
        """See :meth:`InferenceBackend.cancel`."""
        return self._backend.cancel(request_id)

    def status(self) -> BackendStatus:
        """See :meth:`InferenceBackend.status`."""
        return self._backend.status()

    def memory(self) -> MemoryUse:
        """See :meth:`InferenceBackend.memory`."""
        return self._backend.memory()

    def close(self) -> None:
        """See :meth:`InferenceBackend.close`."""
        self._backend.close()


class _Meter:
    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._submitted = clock()
        self._last: float | None = None

    def note(self, event: Event) -> None:
        metrics, now = self._metrics, self._clock()
        match event:
            case Started():
                pass
            case Piece():
                if self._last is None:
                    metrics.first_output.observe(now - self._submitted)
                else:
                    metrics.between_outputs.observe(now - self._last)
                self._last = now
            case Finished():
                metrics.items_in.inc(event.prompt_tokens)
                metrics.items_reused.inc(event.reused_tokens)
                metrics.items_out.inc(event.completion_tokens)
                self._end(event.reason.value, now)
            case Failed():
                self._end(failure(event.error).code.value, now)

    def _end(self, outcome: str, now: float) -> None:
        self._metrics.inferences.labels(outcome).inc()
        self._metrics.whole.observe(now - self._submitted)


def memory_gauges(memory: CacheMemory) -> Iterator[Metric]:
    """Yield what a language model holds in memory."""
    yield gauge("rbee_memory_bytes", "All that the worker holds.", memory.total)
    yield gauge("rbee_weights_bytes", "Weights.", memory.weights)
    yield gauge("rbee_cache_bytes", "What the KV cache has used at most.", memory.cache)
    yield gauge("rbee_cache_reserved_bytes", "What it may come to use.", memory.cache_reserved)
    yield gauge("rbee_workspace_bytes", "Activations and libraries.", memory.workspace)
