"""A backend whose every request is counted and timed, whoever reads its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import structlog
from prometheus_client.core import Metric

from rbee_runtime.errors import RuntimeFault
from rbee_service.backend import BackendStatus, InferenceBackend, MemoryUse
from rbee_service.metrics import Metrics, gauge
from rbee_service.model_loader import CacheMemory

RequestT = TypeVar("RequestT")
EventT = TypeVar("EventT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)


class Meter(Protocol[EventT_contra]):
    """Counts and times one request."""

    def note(self, event: EventT_contra) -> None:
        """Count what an event tells of, now."""


MakeMeter = Callable[[Metrics, Callable[[], float]], Meter[EventT]]
"""Makes the meter of a request that begins now, given where to count and a clock (monotonic s)."""


class MeteredBackend(Generic[RequestT, EventT]):
    """Passes everything on; times are taken where the backend tells of its events.

    A slow reader is therefore not in them.

    Args:
        backend: Does the work.
        meter: Counts and times each request.
        metrics: Where it is counted.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        backend: InferenceBackend[RequestT, EventT],
        meter: MakeMeter[EventT],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._meter = meter
        self._metrics = metrics
        self._clock = clock

    def submit(self, request: RequestT, sink: Callable[[EventT], None]) -> None:
        """See :meth:`InferenceBackend.submit`."""
        meter = self._meter(self._metrics, self._clock)

        def metered(event: EventT) -> None:
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


def memory_gauges(memory: CacheMemory) -> Iterator[Metric]:
    """Yield what a model holds in memory."""
    for name, meaning, value in (
        ("rbee_memory_bytes", "All that the worker holds, as the system counts it.", memory.total),
        ("rbee_weights_bytes", "Size of the weights' files, whatever is packed.", memory.weights),
        ("rbee_cache_bytes", "What the KV cache has used at most.", memory.cache),
        ("rbee_cache_reserved_bytes", "What the KV cache may come to use.", memory.cache_reserved),
        ("rbee_workspace_bytes", "All beyond weights at that size and cache.", memory.workspace),
    ):
        yield gauge(name, meaning, value)
